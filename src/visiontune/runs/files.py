"""Files that are either whole or absent."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

import torch


@contextmanager
def write_atomically(path: Path) -> Iterator[TextIO]:
    """A text file that replaces `path` when the block ends, and never half of it."""
    with _beside(path) as place, place.open("w", newline="") as file:
        yield file
        _to_disk(file)


def save_atomically(path: Path, value: Any) -> None:
    """`torch.save` to a file that replaces `path` when it is whole."""
    with _beside(path) as place, place.open("wb") as file:
        torch.save(value, file)
        _to_disk(file)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A place beside `path` whose file is renamed to it when the block ends without an error."""
    place = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield place
        place.replace(path)
    finally:
        place.unlink(missing_ok=True)


def _to_disk(file: IO[Any]) -> None:
    """Before the renaming: a machine that loses power may else have the new name and none of the content."""
    file.flush()
    os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """
    Raises:
        ValueError: NaN or an infinity in it, which are no JSON.
    """
    with write_atomically(path) as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")
