"""Groups of samples, from a regular expression that is searched in their paths."""

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from visiontune.errors import UserError

SECONDS = 10.0  # for the search in all paths, and
SECONDS_PER_PATH = 0.001
EXAMPLE = "An example: data.group_pattern='(patient\\d+)_'"


def find_groups(paths: Sequence[str], pattern: str) -> list[str]:
    """The match of the pattern's first group in each path.

    Raises:
        UserError: the pattern is no regular expression with a group, does not match a path, or takes too long.
    """
    seconds = SECONDS + SECONDS_PER_PATH * len(paths)
    groups: list[str] = []
    try:
        expression = re.compile(pattern)
        with _time_limit(seconds):
            for path in paths:
                match = expression.search(path)
                groups.append(match[1] if match else "")
                if not groups[-1]:
                    raise UserError(f"data.group_pattern={pattern!r} does not match {path}. {EXAMPLE}")
    except TimeoutError:
        path = paths[min(len(groups), len(paths) - 1)]
        raise UserError(
            f"data.group_pattern={pattern!r} takes longer than {seconds:g} seconds, at {path}: the time of a "
            f"repetition within another, such as (\\w+)+, doubles with each letter. {EXAMPLE}"
        ) from None
    except (re.error, IndexError, OverflowError, RecursionError) as error:
        problem = f"is not a regular expression with a group ({error})"
        raise UserError(f"data.group_pattern={pattern!r} {problem}. {EXAMPLE}") from error
    return groups


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after this time, also within a search; only the main thread of a POSIX system can."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> NoReturn:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, stop)
    remaining, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, remaining)
        signal.signal(signal.SIGALRM, previous)
