"""The run directory: its files, and how they are written and read."""

from visiontune.runs.directory import RunDirectory

__all__ = ["RunDirectory"]
