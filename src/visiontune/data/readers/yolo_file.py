"""The YAML file of a YOLO data set: class names and the shape of keypoints."""

import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visiontune.data.text import is_unicode, normalized, parse_yaml, read_text
from visiontune.errors import UserError


def load(file: Path) -> tuple[dict[str, Any], list[str]]:
    """The content of the YAML file, with all scalars as text, and notes."""
    if not file.is_file():
        raise UserError(f"data.yaml: the file {file} does not exist. Write data.yaml=FILE")
    text, note = read_text(file)
    config = parse_yaml(text, file)
    if not isinstance(config, dict):
        raise UserError(f"{file}: not a YOLO data set: expected the keys train, val and names")
    return config, [note] if note else []


def read_names(config: Mapping[str, Any], file: Path) -> tuple[dict[int, str], list[str]]:
    """id -> name, sorted by id, and notes.

    Without names, the classes are `class_0`, `class_1`, ..., as many as `nc`.

    Raises:
        UserError: there are neither names nor `nc`, they are not names, two are the same, or `nc` is another number.
    """
    entry, count = config.get("names") or None, _count(config, file)
    notes = []
    if entry is None and count:
        entry = [f"class_{i}" for i in range(count)]
        notes.append(f"{file} has no names: the classes are {entry[0]} to {entry[-1]}")
    if isinstance(entry, str):
        entry = _listed_names(entry, file) or ([entry] if count == 1 else entry)
    names_by_key = dict(enumerate(entry)) if isinstance(entry, list) else entry
    pairs = list(names_by_key.items()) if isinstance(names_by_key, Mapping) else []
    try:
        names_by_id = {int(identity): normalized(name) for identity, name in pairs}
    except (TypeError, ValueError):  # an id is no number, or a name is a list
        names_by_id = {}
    is_named = all(name and is_unicode(name) for name in names_by_id.values())
    if not names_by_id or not is_named or len(set(names_by_id.values())) < len(pairs):
        raise UserError(
            f"{file}: names: write a name for each class, such as names: [cat, dog] or names: {{0: cat, 1: dog}}"
        )
    if count is not None and count != len(names_by_id):
        raise UserError(f"{file}: nc is {count}, but there are {len(names_by_id)} names")
    return dict(sorted(names_by_id.items())), notes


def _count(config: Mapping[str, Any], file: Path) -> int | None:
    """The number of classes `nc`; None if it is missing."""
    value = config.get("nc")
    if value in (None, "", "null", "~"):
        return None
    if not isinstance(value, str) or not value.isdecimal() or not 0 < int(value[:9]) <= 100_000:
        raise UserError(f"{file}: nc is {reprlib.repr(value)[:60]}: write the number of classes, such as nc: 2")
    return int(value)


def _listed_names(entry: str, file: Path) -> list[str]:
    """The lines of a file of names, as Darknet has; empty if the entry is no such file."""
    names_file = file.parent / entry
    if not entry.endswith((".names", ".txt")) or not os.path.isfile(names_file):
        return []
    return [line.strip() for line in read_text(names_file)[0].splitlines() if line.strip()]


def keypoint_shape(config: Mapping[str, Any], file: Path) -> tuple[int, int] | None:
    """`kpt_shape`: the number of keypoints, and 2 (x, y) or 3 (x, y, visibility); None for a set without keypoints."""
    shape = config.get("kpt_shape")
    if shape in (None, "", "null", "~", []):
        return None
    if not isinstance(shape, list) or not all(isinstance(number, str) and number.isdecimal() for number in shape):
        shape = []
    numbers = [int(number[:6]) for number in shape]
    if len(numbers) != 2 or numbers[0] < 1 or numbers[1] not in (2, 3):
        # Its whole text may be exponentially long: YAML has references.
        written = reprlib.repr(config["kpt_shape"])[:60]
        raise UserError(f"{file}: kpt_shape is {written}: write kpt_shape: [NUMBER, 2] or [NUMBER, 3]")
    return numbers[0], numbers[1]
