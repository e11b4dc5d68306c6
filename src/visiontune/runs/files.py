"""Files that are either whole or absent."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch


@contextmanager
def write_atomically(path: Path) -> Iterator[TextIO]:
    """A text file that replaces `path` when the block ends, and never half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", newline="") as file:
            yield file
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def save_atomically(path: Path, value: Any) -> None:
    """`torch.save`, beside its place and to the disk, then renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())  # else a machine that loses power may have the new name and none of the content
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """
    Raises:
        ValueError: NaN or an infinity in it, which are no JSON.
    """
    with write_atomically(path) as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")
