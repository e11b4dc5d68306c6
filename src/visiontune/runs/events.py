"""TensorBoard's event files: how long they are, and back to that length."""

import os
from pathlib import Path


def lengths(folder: Path) -> dict[str, int]:
    """Bytes of each event file, by its path under `folder`."""
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("events.out.*")}


def cut(folder: Path, kept: dict[str, int]) -> None:
    """Drop what was written after `lengths` gave `kept`; files that it does not name go altogether.

    The step of an event cannot say it: one step has events from before and from after a checkpoint.
    """
    for name, length in lengths(folder).items():
        if name not in kept:
            (folder / name).unlink()
        elif length > kept[name]:
            os.truncate(folder / name, kept[name])
