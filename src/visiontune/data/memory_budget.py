"""Limit the memory that threads use at the same time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class MemoryBudget:
    """At most `limit` bytes are reserved at any time in this process; a larger request waits until it is alone."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reset()
        # A fork may copy the state of a thread that does not exist in the new process.
        os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        """Forget all reservations."""
        self.used, self._condition = 0, Condition()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free, and hold them in the context."""
        size, condition = min(size, self.limit), self._condition
        with condition:
            condition.wait_for(lambda: self.used + size <= self.limit)
            self.used += size
        try:
            yield
        finally:
            with condition:
                self.used -= size
                condition.notify_all()
