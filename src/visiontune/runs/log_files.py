"""The log files that a run appends to: their lengths at a checkpoint, and back to them when the run is resumed."""

import os
from pathlib import Path

PATTERNS = ("tensorboard/**/events.out.*", "csv/scalars.csv")


def log_file_lengths(folder: Path) -> dict[str, int]:
    """Bytes of each log file of the run at `folder`, by its path in it."""
    files = [path for pattern in PATTERNS for path in folder.glob(pattern)]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def cut_log_files(folder: Path, lengths: dict[str, int]) -> None:
    """Drop what was written after `log_file_lengths` returned `lengths`; files that it does not name are deleted.

    The step of a record does not say it: one step has records from before and from after a checkpoint.
    """
    for name, length in log_file_lengths(folder).items():
        if name not in lengths:
            (folder / name).unlink()
        elif length > lengths[name]:
            os.truncate(folder / name, lengths[name])
