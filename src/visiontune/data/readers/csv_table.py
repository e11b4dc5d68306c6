"""Classification, multi-label and regression from a table with one row per image."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from visiontune.data.readers.class_names import class_names
from visiontune.data.readers.folders import SPLIT_NAMES, relative, require_folder, root_folder
from visiontune.data.readers.named_images import NamedImages
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.readers.table import Row, Table, read_table
from visiontune.data.schema import Sample, Source, TaskInfo
from visiontune.data.text import is_missing, normalized
from visiontune.errors import UserError, listed, some

LARGEST = 3e38  # about the largest float32
ZERO_OR_ONE = {"1": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "false": 0.0, "no": 0.0, "1.0": 1.0, "0.0": 0.0}
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")


def read(
    root: str | Path | None,
    table: str | None = None,
    images: str = ".",
    label: str | None = None,
    labels: list[str] | None = None,
    targets: list[str] | None = None,
    classes: list[str] | None = None,
    splits: str | None = None,
    path: str = "path",
    evaluation: bool = False,
) -> Source:
    """Read a table with a column of paths, and optional columns `split` and `group`.

    An image with an empty cell is not labelled for the task of that column. A cell that pandas reads as missing (nan,
    None, NA, ...) is empty, unless it is one of the `classes`.

    Args:
        root: the data folder.
        table: CSV file (commas, semicolons, tabs or bars) with a line of column names, under the root.
        images: folder that the paths in the table are relative to, under the root.
        label: column with the class of each image, for classification.
        labels: columns with 0 or 1, for multi-label.
        targets: columns with numbers, for regression.
        classes: the classes of `label` in order; by default the values in the column, sorted.
        splits: folder with `{train,val,test}.txt`, instead of the column `split`.
        path: column with the path of each image, or with its name without extension.
        evaluation: ignore `classes`, and accept a single class.

    Raises:
        UserError: a column or an image is missing, or a cell is invalid; the message has the line.
    """
    root = root_folder(root)
    base = require_folder(root / images, "data.images")
    path = normalized(path)
    content = read_table(root, table, path)
    name, notes = content.name, content.notes
    columns = {  # config key -> columns
        "data.label": [label] if label else [],
        "data.labels": list(labels or []),
        "data.targets": list(targets or []),
    }
    columns = {key: [normalized(column) for column in entries] for key, entries in columns.items() if entries}
    if not columns:
        raise UserError(
            f"{name}: no task is configured: write data.label=COLUMN (a class), data.labels=[COLUMNS] (0 or 1 each) or "
            f"data.targets=[COLUMNS] (numbers). The table has the columns {', '.join(content.columns)}"
        )
    for key, names in columns.items():
        content.require(names, key)
    known = set(class_names(classes)) if classes else set()
    used = [path, *(column for names in columns.values() for column in names)]
    notes += content.name_columns(used)
    used += [column for column in ("split", "group") if column in content.columns]
    notes += _empty_missing(content.rows, used, (columns.get("data.label") or [""])[0], known)
    rows, new_notes = _unique_rows(content, used, path, NamedImages([base, root], root, name))
    notes += new_notes
    tasks: dict[str, tuple[TaskInfo, list[str], Callable[[list[str]], Any]]] = {}
    if "data.label" in columns:
        names = columns["data.label"]
        ordered = _classes(rows, names[0], None if evaluation else classes, name, 1 if evaluation else 2)
        tasks["classification"] = TaskInfo("classification", ordered), names, _label(names[0], ordered)
    if "data.labels" in columns:
        names = columns["data.labels"]
        tasks["multilabel"] = TaskInfo("multilabel", names), names, _vector(names, _zero_or_one)
    if "data.targets" in columns:
        names = columns["data.targets"]
        parse, new_notes = _number_parser(content, names)
        tasks["regression"] = TaskInfo("regression", names), names, _vector(names, parse)
        notes += new_notes
    samples = [
        Sample(
            image,
            {task: _target(row, f"{name}:{line}", names, parse) for task, (_, names, parse) in tasks.items()},
            None if splits else _split(row, f"{name}:{line}"),
            row.get("group", "") or None,
        )
        for image, (line, row) in rows.items()
    ]
    for task, (_, names, _) in tasks.items():
        label_counts = [sum(bool(row[column]) for column in names) for _, row in rows.values()]
        if incomplete := sum(0 < count < len(names) for count in label_counts):
            notes.append(f"{incomplete} rows have empty cells in {', '.join(names)}: they are not labelled for {task}")
        if all(sample.targets[task] is None for sample in samples):
            raise UserError(f"{name}: no row has values in all of {', '.join(names)}: no image is labelled for {task}")
    if splits:
        notes += [f"data.splits={splits} is used instead of the column split"] if "split" in content.columns else []
        samples, new_notes = apply_split_lists(samples, root, images, root / splits, f"row in {name}")
        notes += new_notes
    schema = {task: info for task, (info, _, _) in tasks.items()}
    return Source(schema, sorted(samples, key=lambda sample: sample.path), notes, root)


def _empty_missing(rows: list[Row], columns: Sequence[str], label: str, classes: set[str]) -> list[str]:
    """Replace cells that stand for a missing value by empty ones; returns a note of their number."""
    words: list[str] = []
    affected: set[str] = set()
    for _, row in rows:
        for column in columns:
            cell = row[column]
            if cell and is_missing(cell) and not (column == label and cell in classes):
                row[column] = ""
                words.append(cell)
                affected.add(column)
    if not words:
        return []
    hint = "; list them in data.classes if they are classes" if label in affected else ""
    return [
        f"{len(words)} cells of {', '.join(column for column in columns if column in affected)} are missing values: "
        f"{some(sorted(set(words)), 5)}{hint}"
    ]


def _unique_rows(
    table: Table, columns: Sequence[str], path: str, images: NamedImages
) -> tuple[dict[str, Row], list[str]]:
    """Image -> its row, and notes; checks that every image exists and that its rows are equal in `columns`."""
    rows: dict[str, Row] = {}
    missing: list[str] = []
    copies = 0
    for line, row in table.rows:
        location = f"{table.name}:{line}"
        if not row[path]:
            raise UserError(f"{location}: the path is empty")
        image_file = images.find(row[path], location)
        if image_file is None:
            missing.append(f"{location}: {row[path]}")
            continue
        image = relative(image_file, images.root)
        if image not in rows:
            rows[image] = line, row
        elif any(row[column] != rows[image][1][column] for column in columns if column != path):
            raise UserError(f"{location}: {image} is already in line {rows[image][0]}. An image has one row.")
        else:
            copies += 1
    if missing:
        place = images.locate(table.rows[0][1][path]) if len(missing) == len(table.rows) else ""
        raise UserError(
            f"{len(missing)} of {len(table.rows)} images do not exist under {images.folders[0]}; is data.images "
            f"correct?{place}{listed(missing)}"
        )
    repeated = [f"{copies} rows of {table.name} repeat an earlier row"] if copies else []
    return rows, [*images.notes(), *images.unlisted(rows), *repeated]


def _split(row: dict[str, str], where: str) -> str | None:
    split = row.get("split", "")
    if split and split.lower() not in SPLIT_NAMES:
        raise UserError(f"{where}: split {split!r}: write train, val or test, or leave it empty")
    return SPLIT_NAMES[split.lower()] if split else None


def _classes(rows: dict[str, Row], column: str, classes: list[str] | None, name: str, least: int) -> list[str]:
    if classes:
        return class_names(classes)
    cells = {normalized(row[column]) for _, row in rows.values() if row[column]}
    if len(cells) < least:
        raise UserError(f"{name}: column {column!r} has {len(cells)} classes, expected two or more")
    numbers = all(re.fullmatch(r"-?[0-9]{1,18}", cell) for cell in cells)
    return sorted(cells, key=(lambda cell: (int(cell), cell)) if numbers else None)


def _target(row: dict[str, str], where: str, columns: list[str], parse: Callable[[list[str]], Any]) -> Any:
    cells = [row[column] for column in columns]
    if not all(cells):
        return None
    try:
        return parse(cells)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _label(column: str, classes: list[str]) -> Callable[[list[str]], int]:
    index = {name: label for label, name in enumerate(classes)}

    def parse(cells: list[str]) -> int:
        if normalized(cells[0]) not in index:
            raise ValueError(f"{column} {cells[0]!r} is not in data.classes={classes}")
        return index[normalized(cells[0])]

    return parse


def _vector(columns: list[str], parse_cell: Callable[[str, str], float]) -> Callable[[list[str]], torch.Tensor]:
    return lambda cells: torch.tensor([parse_cell(*pair) for pair in zip(columns, cells, strict=True)])


def _zero_or_one(column: str, cell: str) -> float:
    if cell.lower() not in ZERO_OR_ONE:
        raise ValueError(f"{column} {cell!r}: write 0 or 1, or leave it empty if it is unknown")
    return ZERO_OR_ONE[cell.lower()]


def _number_parser(table: Table, columns: list[str]) -> tuple[Callable[[str, str], float], list[str]]:
    """A parser of numbers, and a note if their decimal point is a comma.

    A comma is a decimal point if cells are not separated by commas, no number of the table has a point, and not all
    numbers with a comma could have thousands.

    Raises:
        UserError: `1,500` may be 1.5 or 1500.
    """
    cells = [(line, column, row[column]) for line, row in table.rows for column in columns]
    commas = [place for place in cells if "," in place[2]]
    if table.delimiter == "," or not commas or any("." in cell for _, _, cell in cells):
        return _finite, []
    if all(THOUSANDS.fullmatch(cell) for _, _, cell in commas):
        line, column, cell = commas[0]
        raise UserError(
            f"{table.name}:{line}: {column} {cell!r}: is its comma a decimal point, or does it separate thousands? "
            f"Write {cell.replace(',', '.', 1)} or {cell.replace(',', '')}"
        )
    note = f"{len(commas)} numbers in {table.name} have a decimal comma: {some([cell for _, _, cell in commas])}"
    return lambda column, cell: _finite(column, cell.replace(",", ".") if cell.count(",") == 1 else cell), [note]


def _finite(column: str, cell: str) -> float:
    try:
        value = math.nan if "_" in cell else float(cell)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST:  # also true for NaN
        raise ValueError(f"{column} {cell!r} is not a number: correct it, or leave it empty if it is unknown")
    return value
