"""The locks of a sweep: one for its schedule, and one for each job that runs."""

import fcntl
import os
import shlex
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from visiontune.errors import UserError
from visiontune.runs.lock import FLOCK, LENGTH, START, TYPE

SCHEDULE, COMMAND = 2**40, 2**40 + 1  # bytes; that of a job is its number


class SweepLocks:
    """Locks of single bytes of one file. They belong to the process, and end with it.

    The file stays open, since closing it would give up all locks of this process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._jobs: set[int] = set()

    @contextmanager
    def schedule(self) -> Iterator[None]:
        """Let no other process read or change what runs next within the block."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, SCHEDULE)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, SCHEDULE)

    @contextmanager
    def command(self) -> Iterator[None]:
        """Let no other command start this sweep within the block.

        Raises:
            UserError: another one has started it, and has not ended.
        """
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, COMMAND)
        except (BlockingIOError, PermissionError):
            folder = self._path.parent
            raise UserError(
                f"another command runs the sweep in {folder}: help it with visiontune work {shlex.quote(str(folder))}, "
                "or write another sweep_dir=DIR"
            ) from None
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, COMMAND)

    def hold(self, job: int) -> None:
        """Take the lock of a job.

        Raises:
            BlockingIOError, PermissionError: another process holds it.
        """
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, job)
        self._jobs.add(job)

    def release(self, job: int) -> None:
        """Give up the lock of a job."""
        self._jobs.discard(job)
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, job)

    def is_held(self, job: int) -> bool:
        """Whether a process, which may be this one, holds the lock of a job."""
        if job in self._jobs:
            return True
        fields = [0] * len(FLOCK)
        fields[TYPE], fields[START], fields[LENGTH] = fcntl.F_WRLCK, job, 1
        answer = fcntl.fcntl(self._descriptor, fcntl.F_GETLK, struct.pack(FLOCK, *fields))
        return struct.unpack(FLOCK, answer)[TYPE] != fcntl.F_UNLCK
