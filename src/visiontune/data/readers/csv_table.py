"""Classification, multi-label and regression from a table with one row per image."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from visiontune.data.readers.folders import SPLIT_NAMES, relative, require_folder, root_folder
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.schema import Sample, Source, TaskInfo
from visiontune.errors import UserError, listed

LARGEST = 3e38  # about the largest float32
ZERO_OR_ONE = {"1": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "false": 0.0, "no": 0.0, "1.0": 1.0, "0.0": 0.0}
Row = tuple[int, dict[str, str]]  # line of the file, and column -> cell


def read(
    root: str | Path | None,
    table: str | None = None,
    images: str = ".",
    label: str | None = None,
    labels: list[str] | None = None,
    targets: list[str] | None = None,
    classes: list[str] | None = None,
    splits: str | None = None,
) -> Source:
    """Read a table with a column `path`, and optional columns `split` and `group`.

    An image with an empty cell is not labelled for the task of that column.

    Args:
        root: the data folder.
        table: CSV file (commas, semicolons or tabs) with a line of column names, under the root.
        images: folder that the paths in the table are relative to, under the root.
        label: column with the class of each image, for classification.
        labels: columns with 0 or 1, for multi-label.
        targets: columns with numbers, for regression.
        classes: the classes of `label` in order; by default the values in the column, sorted.
        splits: folder with `{train,val,test}.txt`, instead of the column `split`.

    Raises:
        UserError: a column or an image is missing, or a cell is invalid; the message has the line.
    """
    root = root_folder(root)
    base = require_folder(root / images, "data.images")
    name, columns, rows = _load(root, table)
    tasks: dict[str, tuple[TaskInfo, list[str], Callable[[list[str]], Any]]] = {}
    if label:
        _require([label], columns, "data.label", name)
        classes = _classes(rows, label, classes, name)
        tasks["classification"] = TaskInfo("classification", classes), [label], _label(label, classes)
    for kind, key, argument, parse_cell in (
        ("multilabel", "labels", labels, _zero_or_one),
        ("regression", "targets", targets, _finite),
    ):
        if argument:
            task_columns = list(argument)
            _require(task_columns, columns, f"data.{key}", name)
            tasks[kind] = TaskInfo(kind, task_columns), task_columns, _vector(task_columns, parse_cell)
    if not tasks:
        raise UserError(
            f"{name}: no task is configured: write data.label=COLUMN (a class), data.labels=[COLUMNS] (0 or 1 each) or "
            f"data.targets=[COLUMNS] (numbers). The table has the columns {', '.join(columns)}"
        )
    paths = _paths(rows, base, root, name)
    samples = [
        Sample(
            path,
            {
                task: _target(row, f"{name}:{line}", task_columns, parse)
                for task, (_, task_columns, parse) in tasks.items()
            },
            None if splits else _split(row, f"{name}:{line}"),
            row.get("group", "").strip() or None,
        )
        for path, (line, row) in zip(paths, rows, strict=True)
    ]
    notes = []
    for task, (_, task_columns, _) in tasks.items():
        label_counts = [sum(bool(row[column].strip()) for column in task_columns) for _, row in rows]
        if incomplete := sum(0 < count < len(task_columns) for count in label_counts):
            notes.append(
                f"{incomplete} rows have empty cells in {', '.join(task_columns)}: they are not labelled for {task}"
            )
        if all(sample.targets[task] is None for sample in samples):
            raise UserError(
                f"{name}: no row has values in all of {', '.join(task_columns)}: no image is labelled for {task}"
            )
    if splits:
        notes += [f"data.splits={splits} is used instead of the column split"] if "split" in columns else []
        samples, new_notes = apply_split_lists(samples, root, images, root / splits)
        notes += new_notes
    schema = {task: info for task, (info, _, _) in tasks.items()}
    return Source(schema, sorted(samples, key=lambda sample: sample.path), notes, root)


def _load(root: Path, table: str | None) -> tuple[str, list[str], list[Row]]:
    """The name of the table, its columns and its rows."""
    if not table:
        raise UserError("data.table is not set: write data.table=FILE, a CSV with a column named path")
    file = root / table
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            head = stream.readline()
            stream.seek(0)
            delimiter = max(",;\t", key=head.count)
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            columns = [column.strip() for column in next(reader, [])]
            rows = []
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(columns):
                    raise UserError(f"{table}:{reader.line_num}: {len(cells)} cells, expected {len(columns)}")
                rows.append((reader.line_num, dict(zip(columns, cells, strict=True))))
    except FileNotFoundError:
        raise UserError(f"data.table: the file {file} does not exist. Write data.table=FILE") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"data.table: {file} cannot be read ({error})") from error
    named = [column for column in columns if column]
    if len(set(named)) < len(named):
        raise UserError(f"{table}:1: two columns have the same name: {', '.join(columns)}")
    _require(["path"], columns, "data.table", table)
    if not rows:
        raise UserError(f"{table} has no rows")
    return table, columns, rows


def _require(required: list[str], columns: list[str], key: str, name: str) -> None:
    if missing := [column for column in required if column not in columns]:
        raise UserError(f"{key}: {name} has no column {missing[0]!r}; it has {', '.join(columns)}")
    if len(set(required)) < len(required):
        raise UserError(f"{key}={required}: a column is named twice")


def _paths(rows: list[Row], base: Path, root: Path, name: str) -> list[str]:
    """Path of each row under the root; checks that every image exists and has one row."""
    path_lines: dict[str, int] = {}
    missing = []
    for line, row in rows:
        cell = row["path"].strip().replace("\\", "/")
        if not cell:
            raise UserError(f"{name}:{line}: the path is empty")
        path = relative(base / cell, root)
        if path in path_lines:
            raise UserError(f"{name}:{line}: {path} is already in line {path_lines[path]}. An image has one row.")
        path_lines[path] = line
        if not (root / path).is_file():
            missing.append(f"{name}:{line}: {cell}")
    if missing:
        raise UserError(
            f"{len(missing)} of {len(rows)} images do not exist under {base}; is data.images correct?{listed(missing)}"
        )
    return list(path_lines)


def _split(row: dict[str, str], where: str) -> str | None:
    split = row.get("split", "").strip()
    if split and split.lower() not in SPLIT_NAMES:
        raise UserError(f"{where}: split {split!r}: write train, val or test, or leave it empty")
    return SPLIT_NAMES[split.lower()] if split else None


def _classes(rows: list[Row], column: str, classes: list[str] | None, name: str) -> list[str]:
    if classes:
        if len(set(classes)) < len(classes):
            raise UserError(f"data.classes={classes}: two classes have the same name")
        return [str(class_name) for class_name in classes]
    cells = {cell for _, row in rows if (cell := row[column].strip())}
    if len(cells) < 2:
        raise UserError(f"{name}: column {column!r} has {len(cells)} classes, expected two or more")
    numbers = all(cell.removeprefix("-").isdecimal() for cell in cells)
    return sorted(cells, key=(lambda cell: (int(cell), cell)) if numbers else None)


def _target(row: dict[str, str], where: str, columns: list[str], parse: Callable[[list[str]], Any]) -> Any:
    cells = [row[column].strip() for column in columns]
    if not all(cells):
        return None
    try:
        return parse(cells)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _label(column: str, classes: list[str]) -> Callable[[list[str]], int]:
    index = {name: label for label, name in enumerate(classes)}

    def parse(cells: list[str]) -> int:
        if cells[0] not in index:
            raise ValueError(f"{column} {cells[0]!r} is not in data.classes={classes}")
        return index[cells[0]]

    return parse


def _vector(columns: list[str], parse_cell: Callable[[str, str], float]) -> Callable[[list[str]], torch.Tensor]:
    return lambda cells: torch.tensor([parse_cell(*pair) for pair in zip(columns, cells, strict=True)])


def _zero_or_one(column: str, cell: str) -> float:
    if cell.lower() not in ZERO_OR_ONE:
        raise ValueError(f"{column} {cell!r}: write 0 or 1, or leave it empty if it is unknown")
    return ZERO_OR_ONE[cell.lower()]


def _finite(column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST:  # also true for NaN
        raise ValueError(f"{column} {cell!r} is not a number: correct it, or leave it empty if it is unknown")
    return value
