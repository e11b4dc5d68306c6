"""The lock of a file, which ends with the process that holds it."""

import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# `struct flock` of fcntl(2): its format, and the positions of the type, the first byte and the number of bytes.
FLOCK, TYPE, START, LENGTH = ("qqihh", 3, 0, 1) if sys.platform == "darwin" else ("hhqqi", 0, 2, 3)

_held: list[str] = []  # by this process


@contextmanager
def locked(file: IO[str]) -> Iterator[None]:
    """Hold the lock of an open file within the block.

    Raises:
        BlockingIOError, PermissionError: another process holds it.
        OSError: the file system has no locks.
    """
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    name = os.path.realpath(file.name)
    _held.append(name)
    try:
        yield
    finally:
        _held.remove(name)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file; true if the file system cannot tell.

    It only asks. Trying to take the lock could make another process fail, and closing a file gives up every lock of it
    that this process holds.
    """
    if os.path.realpath(path) in _held:
        return True
    fields = [0] * len(FLOCK)
    fields[TYPE] = fcntl.F_WRLCK
    try:
        with path.open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(FLOCK, *fields))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return struct.unpack(FLOCK, answer)[TYPE] != fcntl.F_UNLCK
