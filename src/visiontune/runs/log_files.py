"""The log files that a run appends to: measured at a checkpoint, and cut to these lengths when the run is resumed."""

import os
from pathlib import Path

PATTERNS = ("tensorboard/**/events.out.*", "csv/scalars.csv")


def log_file_lengths(folder: Path) -> dict[str, int]:
    """Bytes of each log file of the run at `folder`, by its path in it."""
    files = [path for pattern in PATTERNS for path in folder.glob(pattern)]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def cut_log_files(folder: Path, lengths: dict[str, int]) -> None:
    """Cut each log file to its length in `lengths`, from `log_file_lengths`, and delete files that are not in it.

    The step of a record cannot tell which records to drop: a step has records before and after its checkpoint.
    """
    for name, length in log_file_lengths(folder).items():
        if name not in lengths:
            (folder / name).unlink()
        elif length > lengths[name]:
            os.truncate(folder / name, lengths[name])
