"""Atomic writes: a file is either complete or absent, also after a crash."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

import torch

from visiontune.signals import postponed

LONGEST_NAME = 255  # bytes, on most file systems


@contextmanager
def write_atomically(path: Path) -> Iterator[TextIO]:
    """A text file that replaces `path` when the block ends without an error."""
    with postponed(), temporary_path(path) as temporary, temporary.open("w", newline="") as file:
        yield file
        _sync(file)


def write_bytes(path: Path, content: bytes) -> None:
    """Write an image or a similar file to a file that replaces `path` when it is complete."""
    with postponed(), temporary_path(path) as temporary:
        temporary.write_bytes(content)


def save_atomically(path: Path, value: Any) -> None:
    """`torch.save` to a file that replaces `path` when it is complete."""
    with postponed(), temporary_path(path) as temporary, temporary.open("wb") as file:
        output = _Output(file)
        try:
            torch.save(value, output)  # type: ignore[arg-type]  # it calls write and flush only
        except RuntimeError as error:  # torch hides why a write failed
            raise output.error or error from error
        _sync(file)


class _Output:
    """A binary file that remembers why a write failed; a second signal can be the reason."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.flush = file, file.flush
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except BaseException as error:
            self.error = error
            raise


@contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """A hidden path in the same folder, with the same suffix, for libraries that write files themselves.

    Its file is renamed to `path` when the block ends without an error; otherwise it is deleted.
    """
    temporary = path.with_name(_temporary_name(path))
    try:
        temporary.unlink(missing_ok=True)  # a link of this name would be written through
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a failed write names no file
    finally:
        with suppress(OSError):  # the file system has become read-only
            temporary.unlink(missing_ok=True)


def _temporary_name(path: Path) -> str:
    name = f".{os.getpid()}.{path.name}"
    if len(os.fsencode(name)) <= LONGEST_NAME:
        return name
    return f".{os.getpid()}-{hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}{path.suffix}"


@contextmanager
def append(path: Path) -> Iterator[TextIO]:
    """A text file to append to. After a write that fails, it is as before; the error names it."""
    length = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", newline="") as file:
            yield file
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, length)
        error.filename = error.filename or str(path)
        raise


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
