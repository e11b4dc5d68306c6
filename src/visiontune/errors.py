"""Errors whose message is for the user, and functions that format messages."""

import errno
import os
import shlex
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """The config or the data is wrong: exit code 2, one message, no traceback.

    The message says what is wrong, where, and what to write instead (a valid example).
    """


class RunError(Exception):
    """The work ran but has no usable result: exit code 1, one message, no traceback."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if there is no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def one_line(text: str, most: int | None = None) -> str:
    """Escape line breaks and other control characters; with `most`, leave out the middle of a longer text."""
    line = "".join(
        character.encode("unicode_escape", "backslashreplace").decode()
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        else character
        for character in text
    )
    if most is None or len(line) <= most:
        return line
    return line[: most - most // 3 - 1] + "…" + line[-(most // 3) :]


def visible(text: str, most: int | None = None) -> str:
    """Escape control characters, with which text from elsewhere could change a terminal; line breaks and tabs stay.

    Args:
        most: leave out the middle of a longer text.
    """
    if most is not None and len(text) > most:
        text = f"{text[: most // 2]} ... {text[-most // 2 :]}"
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) == "Cc" and character not in "\n\t"
        else character
        for character in text
    )


def listed(lines: Sequence[str], most: int = 10) -> str:
    """The first `most` lines, each indented on a new line, and the number of further lines."""
    more = f"\n  and {len(lines) - most} more" if len(lines) > most else ""
    return "".join(f"\n  {line}" for line in lines[:most]) + more


def printable(text: object) -> str:
    """A path or name as valid Unicode: bytes of a file name that are not UTF-8 are written as `\\xNN`."""
    try:
        return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte, as in JSON
        return str(text).encode("utf-8", "backslashreplace").decode()


def pluralize(count: int, singular: str, plural: str) -> str:
    """`1 image is` or `2 images are`."""
    return f"{count} {singular if count == 1 else plural}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first `most` names, separated by commas."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def add_notes(message: str, notes: Sequence[str]) -> str:
    """The message of an error, and below it the notes that explain it."""
    return "\n".join([message, *(f"note: {note}" for note in notes)])


def shell_override(key: str, value: object) -> str:
    """`KEY=VALUE` as it is typed into a shell: the value is quoted if it needs quotes."""
    return f"{key}={shlex.quote(str(value))}"


def causes(error: BaseException) -> list[BaseException]:
    """The error, the one that it was raised from or in the handling of, and so on."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links


FULL = (errno.ENOSPC, errno.EDQUOT)  # the second is a quota
# Reading a file has these errors, too.
REFUSED = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


def failed_write(error: BaseException, folder: Path | None = None) -> OSError | None:
    """The error of a write among the causes of `error`: the disk is full or read-only, or `folder` is not writable.

    Args:
        folder: the folder that the command writes to.
    """
    for link in causes(error):
        if isinstance(link, OSError):
            in_folder = folder is not None and link.filename and folder in Path(os.fsdecode(link.filename)).parents
            if link.errno in (*FULL, errno.EROFS) or (in_folder and link.errno in REFUSED):
                return link
    return None


def explain_write(error: OSError, default: object = "a file") -> str:
    """What could not be written, why, and what to do, without a full stop.

    Args:
        default: what was written, if the error does not name it.
    """
    advice = "Free some space" if error.errno in FULL else "Make its folder writable"
    return f"{error.filename or default} could not be written: {error.strerror}. {advice}"


@contextmanager
def rename_keys(names: Mapping[str, str]) -> Iterator[None]:
    """Name the keys of another verb in an error about the keys of train.

    Args:
        names: key of train -> what to write instead.
    """
    try:
        yield
    except UserError as error:
        message = str(error)
        for key, name in names.items():
            message = message.replace(key, name)
        raise UserError(message) from error
