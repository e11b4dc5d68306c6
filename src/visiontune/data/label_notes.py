"""Notes on labels that are probably mistakes: names of classes, and copies of an image that differ."""

import unicodedata
from collections.abc import Mapping, Sequence

from visiontune.data.schema import Sample, TaskInfo
from visiontune.data.text import to_number
from visiontune.errors import pluralize, some


def label_notes(samples: Sequence[Sample], schema: Mapping[str, TaskInfo]) -> list[str]:
    """A note on each kind of mistake; the labels are used as they are.

    Args:
        samples: with their `content`.
    """
    notes: list[str] = []
    for task, info in schema.items():
        if not info.target_kind.names_classes:
            continue
        if alike := _similar_names(info.classes):
            examples = some([" and ".join(map(repr, names)) for names in alike])
            notes.append(f"names of classes look alike and are different classes; correct them if not: {examples}")
        if info.target_kind.single_label and (joined := _joined_names(info.classes)):
            count = pluralize(len(joined), "class is", "classes are")
            notes.append(
                f"{count} made of names of others: {some([*map(repr, joined)])}. If an image may have several classes, "
                "write a table with a column of 0 and 1 for each, and data.labels=[COLUMNS] heads=multilabel"
            )
        if info.target_kind.single_label and (differing := _differing_copies(samples, task, info)):
            notes.append(
                f"{task}: {pluralize(len(differing), 'image has', 'images have')} a copy of another class: "
                + some([f"{first} and {second}" for first, second in differing])
            )
    return notes


def _similar_names(classes: Sequence[str]) -> list[list[str]]:
    """Names that differ only in letter case, spaces, invisible characters, or how they write a number."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(_plain(name), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _joined_names(classes: Sequence[str]) -> list[str]:
    """Names such as `cat|dog`, all of whose parts are classes as well."""
    known = set(classes)
    return [
        name
        for name in classes
        if any(mark in name and {part.strip() for part in name.split(mark)} <= known for mark in "|,;")
    ]


def _plain(name: str) -> str:
    text = "".join(letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
    text = " ".join(text.casefold().split())
    try:
        return f"{to_number(text):.17g}"
    except ValueError:
        return text


def _differing_copies(samples: Sequence[Sample], task: str, info: TaskInfo) -> list[tuple[str, str]]:
    """Paths of an image and of the first image with the same content, where their labels differ."""
    first: dict[str, Sample] = {}
    differing = []
    for sample in samples:
        if sample.targets.get(task) is None:
            continue
        other = first.setdefault(sample.content, sample)
        if [*info.labels(other.targets[task])] != [*info.labels(sample.targets[task])]:
            differing.append((other.path, sample.path))
    return differing
