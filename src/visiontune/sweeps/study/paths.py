"""The files of a job in the directory of a sweep."""

from pathlib import Path

ERROR = "error: "  # how the line of an error begins in the output of a job


def run_path(sweep: Path, number: int) -> Path:
    """The run directory of a job."""
    return sweep / f"{number:03d}"


def output_path(sweep: Path, number: int) -> Path:
    """The file with what a job prints; it is deleted when the job has finished."""
    return sweep / f"{number:03d}.txt"
