"""Atomic writes: a file is either complete or absent, also after a crash."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

import torch

from visiontune.signals import postponed


@contextmanager
def write_atomically(path: Path) -> Iterator[TextIO]:
    """A text file that replaces `path` when the block ends without an error."""
    with _temporary(path) as temporary, temporary.open("w", newline="") as file:
        yield file
        _sync(file)


def save_atomically(path: Path, value: Any) -> None:
    """`torch.save` to a file that replaces `path` when it is complete."""
    with _temporary(path) as temporary, temporary.open("wb") as file:
        output = _Output(file)
        try:
            torch.save(value, output)  # type: ignore[arg-type]  # it calls write and flush only
        except RuntimeError as error:  # torch hides why a write failed
            raise output.error or error from error
        _sync(file)


class _Output:
    """A binary file that remembers why a write failed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.flush = file, file.flush
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A path in the same folder; its file is renamed to `path` when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # a link of this name would be written through
    with postponed():
        try:
            yield temporary
            temporary.replace(path)
        except OSError as error:
            error.filename = error.filename or str(path)  # a failed write names no file
            raise
        finally:
            temporary.unlink(missing_ok=True)


def _sync(file: IO[Any]) -> None:
    """Write to the disk before the rename: otherwise, the renamed file could be empty after a power failure."""
    file.flush()
    os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to a file that replaces `path` when it is complete.

    Raises:
        ValueError: `value` has a NaN or an infinity, which JSON does not have.
    """
    with write_atomically(path) as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")
