"""Errors whose message is for the user: what was given is wrong, or what was made does not hold."""

from collections.abc import Sequence


class UserError(Exception):
    """The config or the data is wrong: exit code 2, one message, no traceback.

    The message says what is wrong, where, and what to write instead (a valid example).
    """


class RunError(Exception):
    """The work ran but has no usable result: exit code 1, one message, no traceback."""


def listed(lines: Sequence[str], most: int = 10) -> str:
    """The first lines, indented, each on a new line, and the number of further ones."""
    more = f"\n  and {len(lines) - most} more" if len(lines) > most else ""
    return "".join(f"\n  {line}" for line in lines[:most]) + more


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names, separated by commas."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
