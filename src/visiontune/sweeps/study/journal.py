"""The journal that stores a sweep's study on disk."""

import fcntl
import os
from pathlib import Path
from typing import IO

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

BLOCK = 4096  # bytes that are read at a time to find the end of the last complete line


class JournalLock(JournalFileOpenLock):
    """A lock of the kernel, which ends with the process that holds it.

    The locks of Optuna are files. After a process that held one was killed, the others wait for 30 seconds, and forever
    if the path is relative. A process that is killed while it writes leaves an incomplete line, which the next removes.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._path = journal.with_name(journal.name + ".lock")
        self._descriptor = -1

    def acquire(self) -> bool:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        remove_incomplete_line(self._journal)
        return True

    def release(self) -> None:
        os.close(self._descriptor)


def remove_incomplete_line(path: Path) -> None:
    """Cut a file after its last line break."""
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0 or _read(file, end - 1, end) == b"\n":
            return
        while end > 0:
            start = max(0, end - BLOCK)
            position = _read(file, start, end).rfind(b"\n")
            if position >= 0:
                file.truncate(start + position + 1)
                return
            end = start
        file.truncate(0)


def _read(file: IO[bytes], start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def open_journal(path: Path) -> JournalStorage:
    """The storage in a journal file, which is created if it does not exist."""
    path = path.resolve()
    return JournalStorage(JournalFileBackend(str(path), JournalLock(path)))
