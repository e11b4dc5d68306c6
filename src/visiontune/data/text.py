"""Read what users and their tools wrote as text: encodings, YAML, missing values, numbers, names."""

import codecs
import math
import re
import unicodedata
from pathlib import Path
from typing import Any

from yaml import BaseLoader, MappingNode, YAMLError, load

from visiontune.errors import UserError, printable

# The order matters: the mark of UTF-32 begins with that of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# The values that pandas reads as missing; a cell of spaces is missing too.
MISSING = frozenset(
    [
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"),
        *("NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    ]
)
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,16}")  # as Python writes it, so not 0001


def read_text(path: Path) -> tuple[str, str | None]:
    r"""The text of a file with `\n` at the end of its lines, and a note if its encoding is a guess.

    UTF-8 with or without byte order mark and UTF-16 are read as such, anything else as Windows-1252.

    Raises:
        UserError: the file cannot be read, or is not text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    text, encoding = decode_text(data, str(path))
    if encoding != "cp1252":
        return text, None
    return text, f"{path} is not UTF-8: it is read as Windows-1252. Save it as UTF-8 if its letters are wrong"


def decode_text(data: bytes, name: str, declared: str | None = None) -> tuple[str, str]:
    r"""The text with `\n` at the end of its lines, and the encoding.

    Args:
        name: of the file, for messages.
        declared: an encoding that the file claims to have; used if the bytes are not UTF-8.

    Raises:
        UserError: the bytes are not text in any of these encodings.
    """
    marked = next(((mark, encoding) for mark, encoding in BYTE_ORDER_MARKS if data.startswith(mark)), None)
    if marked:
        data, candidates = data[len(marked[0]) :], [marked[1]]
    elif b"\0" in data[:200]:
        candidates = ["utf-16-le" if data[1:2] == b"\0" else "utf-16-be"]
    else:
        candidates = ["utf-8", *([declared] if declared else []), "cp1252"]
    for encoding in candidates:
        try:
            text = data.decode(encoding)
        except (LookupError, ValueError):  # an unknown encoding, or other bytes
            continue
        if "\0" not in text:
            return text.replace("\r\n", "\n").replace("\r", "\n"), encoding
    raise UserError(f"{name}: not a text file, or in an unknown encoding. Save it as UTF-8")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file whose scalars stay text: `off`, `1`, `2024-06-01` and `null` are strings.

    Raises:
        UserError: the file cannot be read, is not valid YAML, or has a key twice.
    """
    return parse_yaml(read_text(path)[0], path)


def parse_yaml(text: str, path: Path) -> Any:
    """As `read_yaml`, for text that has been read from `path`."""
    try:
        return load(text, _TextLoader)  # it builds only strings, lists and dictionaries
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise UserError(f"{path}{line}: broken YAML ({problem})") from error
    except RecursionError as error:
        raise UserError(f"{path}: broken YAML (nested too deeply)") from error


class _TextLoader(BaseLoader):
    """PyYAML's loader without types, which also refuses a key that occurs twice."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            raise YAMLError(f"a key occurs twice in the mapping of line {node.start_mark.line + 1}")
        return mapping


def is_missing(cell: str) -> bool:
    """Whether pandas would read the cell of a table as a missing value."""
    return cell.strip() in MISSING


def normalized(name: str) -> str:
    """The name in Unicode's composed form (NFC): macOS and some archives write accents as characters after letters."""
    return unicodedata.normalize("NFC", name)


def match_key(name: str) -> str:
    """The same text for names that differ only in letter case or Unicode form."""
    return normalized(name).casefold()


def is_unicode(text: str) -> bool:
    """Whether tables and reports can name the text: JSON and YAML may write half a character (a lone surrogate)."""
    return text.isascii() or printable(text) == text


def to_number(value: Any) -> float:
    """A number, or text that is a number, as float.

    Raises:
        ValueError: it is neither, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r:.60} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{value!r:.60} is not a finite number")
    return number


def to_pixels(value: Any) -> int:
    """A side of an image; 0 if it is missing or no number."""
    try:
        return int(to_number(value))
    except ValueError:
        return 0


def to_id(value: Any) -> int | str:
    """An id of an annotation file: 1, 1.0 and "1" are the same id; other text is an id, too.

    Raises:
        ValueError: it is neither a whole number nor text.
    """
    if isinstance(value, str) and value.strip():
        plain = value.strip()
        return int(plain) if INTEGER.fullmatch(plain) else plain
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        return int(value)
    raise ValueError(f"{value!r:.60} is not an id")
