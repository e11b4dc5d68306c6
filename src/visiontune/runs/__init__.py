"""The run directory: what is in it, and how a run is read again."""

from visiontune.runs.directory import RunDirectory

__all__ = ["RunDirectory"]
