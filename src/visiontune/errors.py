"""Errors whose message is for the user: what was given is wrong, or what was made does not hold."""

from collections.abc import Sequence


class UserError(Exception):
    """The config or the data is wrong: exit code 2, one message, no traceback.

    The message says what is wrong, where, and what to write instead (a valid example).
    """


class RunError(Exception):
    """The work was done and its result cannot be given: exit code 1, one message, no traceback."""


def listed(lines: Sequence[str], most: int = 10) -> str:
    """The first lines, each on one of its own and indented, and how many more there are."""
    more = f"\n  and {len(lines) - most} more" if len(lines) > most else ""
    return "".join(f"\n  {line}" for line in lines[:most]) + more


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names in a row."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
