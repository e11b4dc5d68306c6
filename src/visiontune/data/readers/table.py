"""Read a table as scripts and spreadsheets write it: encodings, delimiters, blank columns, line breaks in cells."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visiontune.data.readers.folders import SPLIT_NAMES
from visiontune.data.text import is_missing, normalized, read_text
from visiontune.errors import UserError

Row = tuple[int, dict[str, str]]  # line of the file, and column -> cell without spaces around it
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SEPARATOR_LINE = re.compile(r'"?sep=([,;\t|:])"?[,;\t]*', re.IGNORECASE)  # Excel's first line
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls


@dataclass(frozen=True)
class Table:
    """The rows of a table that are not blank.

    Attributes:
        name: of the file, for messages.
        columns: their names; a column without a name has an empty one.
        notes: messages about what is guessed.
    """

    name: str
    columns: list[str]
    rows: list[Row]
    delimiter: str
    notes: list[str]

    def require(self, columns: list[str], key: str, advice: str = "") -> None:
        """Raise UserError if a column does not exist, exists twice, or is listed twice; `key` is its config key."""
        for column in columns:
            if column not in self.columns:
                names = ", ".join(self.columns)
                raise UserError(f"{key}: {self.name} has no column {column!r}; it has {names}{advice}")
            if self.columns.count(column) > 1:
                raise UserError(f"{self.name}:1: two columns have the same name: {', '.join(self.columns)}")
        if len(set(columns)) < len(columns):
            raise UserError(f"{key}={columns}: a column is named twice")

    def name_columns(self, used: Sequence[str]) -> list[str]:
        """Use a column such as `Split` as `split` if its cells are names of splits; returns notes on such columns.

        Args:
            used: columns with another use.
        """
        notes = []
        for name in ("split", "group"):
            others = [column for column in self.columns if column.lower() == name and column not in used]
            if name in self.columns or len(others) != 1:
                continue
            column = others[0]
            cells = {row[column].lower() for _, row in self.rows if not is_missing(row[column])}
            if name == "split" and cells <= SPLIT_NAMES.keys():
                self.columns.append(name)
                for _, row in self.rows:
                    row[name] = row[column]
                notes.append(f"the column {column} of {self.name} is used as {name}")
            else:
                remedy = f"rename it to {name} if it has the {name}s"
                notes.append(f"the column {column} of {self.name} is not used; {remedy}")
        return notes


def read_table(root: Path, name: str | None, path_column: str) -> Table:
    """Read a CSV file with a line of column names.

    Cells are separated by commas, semicolons, tabs or bars: by those that make `path_column` a column.

    Raises:
        UserError: the file does not exist, is not a table, has no rows, or a row has another number of cells.
    """
    if not name:
        raise UserError(f"data.table is not set: write data.table=FILE, a CSV with a column named {path_column}")
    file = root / name
    text, note = _read(file)
    first, _, remainder = text.partition("\n")
    separator = SEPARATOR_LINE.fullmatch(first)
    delimiter = separator[1] if separator else _delimiter(text, path_column)
    reader = csv.reader(io.StringIO(remainder if separator else text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    rows: list[Row] = []
    line = 1 + bool(separator)
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1 + bool(separator)
            if not any(cell.strip() for cell in cells):
                continue
            if columns:
                rows.append((start, _row(f"{name}:{start}", columns, cells, delimiter)))
            else:
                columns = [normalized(cell.strip()) for cell in _without_blank_end(cells)]
                if path_column not in columns:  # a title, perhaps: the number of its cells says nothing
                    break
    except csv.Error as error:
        raise UserError(f"data.table: {file} cannot be read ({error})") from error
    if not columns:
        raise UserError(f"data.table: {file} is empty")
    table = Table(name, columns, rows, delimiter, [note] if note else [])
    table.require([path_column], "data.table", ". Write data.path=COLUMN for another column of paths")
    if not rows:
        raise UserError(f"{name} has no rows")
    if delimiter != "," and not separator:
        table.notes.append(f"{name}: cells are separated by {DELIMITERS[delimiter]}")
    return table


def _read(file: Path) -> tuple[str, str | None]:
    try:
        with file.open("rb") as stream:
            head = stream.read(4)
    except FileNotFoundError:
        raise UserError(f"data.table: the file {file} does not exist. Write data.table=FILE") from None
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise UserError(f"data.table: {file} cannot be read ({problem}). Write data.table=FILE") from error
    if head in WORKBOOKS:
        raise UserError(
            f"data.table: {file} is a workbook. Save its sheet as CSV (UTF-8) and write data.table=FILE.csv"
        )
    return read_text(file)


def _delimiter(text: str, path_column: str) -> str:
    """The delimiter that makes `path_column` a column; among several, the one that makes most columns."""
    head = text.lstrip("\n")[:100_000]

    def rank(delimiter: str) -> tuple[bool, int]:
        try:
            columns = next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter), [])
        except csv.Error:
            columns = []
        return path_column in [normalized(column.strip()) for column in columns], len(columns)

    return max(DELIMITERS, key=rank)


def _row(location: str, columns: list[str], cells: list[str], delimiter: str) -> dict[str, str]:
    if len(cells) < len(columns) or any(cell.strip() for cell in cells[len(columns) :]):
        hint = f". Put quotes around cells that contain {delimiter!r}" if len(cells) > len(columns) else ""
        raise UserError(f"{location}: {len(cells)} cells, expected {len(columns)}{hint}")
    return {column: cell.strip() for column, cell in zip(columns, cells, strict=False)}


def _without_blank_end(cells: list[str]) -> list[str]:
    while not cells[-1].strip():
        cells = cells[:-1]
    return cells
