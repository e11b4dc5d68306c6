"""Show how far a long scan of files is."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")
FEW = 500  # files that take no time
MANY = 5_000  # files for which there is a line even without a terminal
SECONDS = 10.0  # between two lines


def show_progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The same items, with a progress bar on the terminal's stderr, or a line every ten seconds in another stderr."""
    if sys.stderr.isatty():
        yield from track(items, what, total, console=Console(stderr=True), disable=total < FEW)
        return
    due = time.monotonic() + SECONDS
    for count, item in enumerate(items):
        if total >= MANY and time.monotonic() >= due:
            print(f"{what}: {count:,} of {total:,}", file=sys.stderr, flush=True)
            due = time.monotonic() + SECONDS
        yield item
