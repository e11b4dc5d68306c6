"""How the process that starts the ranks stops them, all before the same batch."""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context
from typing import Any

# Positions in the shared memory.
SIGNAL, COUNT, WINDOW = range(3)


class RankControl:
    """Shared memory of a process and its ranks: the signal that stops them, how often it came, and where they stop.

    A terminal or a scheduler may signal every process. A rank therefore ignores its signals until its parent, which
    gets them too, has written the request; the parent then sends SIGTERM to wake the rank.

    Rank 0 chooses the window of batches (one optimizer step) before which all ranks stop: the one after the window that
    it is about to train. No other rank can have passed its start, since each window ends with a sum over the ranks.
    """

    def __init__(self) -> None:
        self.values: Any = get_context("spawn").Array("i", 3, lock=False)
        self.rank = 0

    def stop(self, number: int, at_once: bool, processes: Sequence[int]) -> None:
        """Ask the ranks to stop, and wake them."""
        self.values[SIGNAL] = number
        self.values[COUNT] = 2 if at_once else max(1, self.values[COUNT])
        for process in processes:
            with suppress(ProcessLookupError):  # it has ended
                os.kill(process, signal.SIGTERM)

    def request(self) -> tuple[int, bool] | None:
        if not self.values[COUNT]:
            return None
        return self.values[SIGNAL], self.values[COUNT] > 1

    def is_due(self, window: int) -> bool:
        if self.rank == 0 and self.values[COUNT] and not self.values[WINDOW]:
            self.values[WINDOW] = window + 1
        return 0 < self.values[WINDOW] <= window
