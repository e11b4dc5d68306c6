"""A Dataset of your own: any class with `__len__` and `__getitem__` that returns (image, target).

Every item is read once before training: its image is hashed and its target is checked. Later, data-loader workers
load images, masks and boxes again; class labels and vectors stay in memory. Splits depend on the hashes of the images,
not on the order of the items.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import track

from visiontune.data.fingerprint import fingerprint
from visiontune.data.image_files import MAX_PIXELS
from visiontune.data.image_notes import ImageNotes
from visiontune.data.images import ImageDecoder
from visiontune.data.readers.class_names import class_names
from visiontune.data.readers.folders import SPLIT_NAMES
from visiontune.data.readers.python_items import Items
from visiontune.data.schema import Sample, Source, TaskInfo
from visiontune.data.target_kinds import KINDS
from visiontune.errors import UserError
from visiontune.nodes import build

EXAMPLE = (
    "write data.dataset._target_=birds.Birds (a class with __len__ and __getitem__), or one per split: "
    "data.dataset='{train: {_target_: birds.Birds, split: train}, val: {_target_: birds.Birds, split: val}}'"
)


@runtime_checkable
class ItemDataset(Protocol):
    """A class with these methods is a Dataset."""

    def __getitem__(self, index: int) -> Any: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class StoredTarget:
    """A target with geometry, loaded from the Dataset on demand."""

    labels: Sequence[int]
    content: str
    load: Callable[[tuple[int, int]], Any]


def read(
    dataset: Mapping[str, Any] | None = None,
    task: str | Sequence[str] | Mapping[str, str] = "classification",
    classes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    channels: int = 3,
    orientation: str = "apply",
    grey_range: Sequence[float] | None = None,
    max_pixels: int | None = MAX_PIXELS,
) -> Source:
    """Read a Dataset, or one Dataset per split.

    A Dataset may have `classes`, the class names (task -> names if there are several tasks), and `groups`, a name for
    each item: items of one group are never in two splits.

    Args:
        dataset: `_target_` and its arguments, or split -> such a mapping.
        task: the kind of the targets, which is also the name of the task. For several tasks, whose targets are
            mappings {task: target}: a list of kinds, or task -> kind.
        classes: names in label order, instead of those of the Dataset; task -> names if there are several tasks.
        channels, orientation, grey_range, max_pixels: how PIL images become pixels, see `ImageDecoder`.

    Raises:
        UserError: a class cannot be imported or built, or an item is invalid.
    """
    kinds = _kinds(task)
    parts = {split: _build(node, _name(split)) for split, node in _parts(dataset).items()}
    names = {name: _names(classes, name, "data.classes") or _dataset_names(parts, name) for name in kinds}
    counts = {name: len(names[name] or ()) for name in kinds}
    decoder = ImageDecoder.from_config(
        {"channels": channels, "orientation": orientation, "grey_range": grey_range, "max_pixels": max_pixels}
    )
    samples, images = [], ImageNotes(decoder)
    for split, part in parts.items():
        target_kinds = {name: KINDS[kind] for name, kind in kinds.items()}
        items = Items(part, target_kinds, isinstance(task, str), decoder, _name(split))
        samples += _samples(items, split, names, counts, images)
    notes = images.notes()
    for name in kinds:
        if not names[name]:
            names[name] = [str(label) for label in range(counts[name])]
            notes.append(
                f"{name}: the Dataset has no class names: they are 0 to {counts[name] - 1}; "
                "write data.classes=[NAME, NAME]"
            )
    return Source({name: TaskInfo(kind, names[name] or []) for name, kind in kinds.items()}, samples, notes)


def _name(split: str | None) -> str:
    return f"data.dataset.{split}" if split else "data.dataset"


def _kinds(task: str | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    if isinstance(task, Mapping):
        kinds = dict(task)
    else:
        kinds = {kind: kind for kind in (task if isinstance(task, list | tuple) else [str(task)])}
    for kind in kinds.values():
        if kind not in KINDS:
            raise UserError(
                f"data.task: unknown kind of target {kind!r}: write data.task=KIND, one of {', '.join(KINDS)}"
            )
    if not kinds:
        raise UserError("data.task is empty: write e.g. data.task=classification")
    return kinds


def _parts(dataset: Mapping[str, Any] | None) -> dict[str | None, Mapping[str, Any]]:
    """split -> `_target_` and arguments of its Dataset; the key None means that the Dataset is to be split."""
    if dataset is not None and not isinstance(dataset, Mapping):
        raise UserError(f"data.dataset={dataset}: expected a _target_: {EXAMPLE}")
    # Unused keys of the YAML file are null; `train` may also be an argument of the Dataset.
    declared = ("_target_", "train", "val", "test")
    nodes = {key: value for key, value in (dataset or {}).items() if key not in declared or value is not None}
    if "_target_" in nodes:
        return {None: nodes}
    if not nodes or set(nodes) - set(SPLIT_NAMES) or any("_target_" not in (node or {}) for node in nodes.values()):
        raise UserError(f"data.dataset={nodes or None}: expected a _target_: {EXAMPLE}")
    return {SPLIT_NAMES[split]: node for split, node in nodes.items()}


def _build(node: Mapping[str, Any], name: str) -> Any:
    return build(node, name, f"a class with __len__ and __getitem__; {EXAMPLE}", ItemDataset, only_classes=True)


def _names(classes: Any, task: str, key: str) -> list[str] | None:
    """The class names of a task, from a list or a mapping task -> list."""
    names = classes.get(task) if isinstance(classes, Mapping) else classes
    return class_names(names, key) if names else None


def _dataset_names(parts: Mapping[str | None, Any], task: str) -> list[str] | None:
    names_by_split = {
        split: _names(getattr(part, "classes", None), task, f"{_name(split)}.classes") for split, part in parts.items()
    }
    first = next(iter(names_by_split.values()))
    for split, names in names_by_split.items():
        if names != first:
            raise UserError(
                f"{_name(split)} has other classes than {_name(next(iter(names_by_split)))}: {names} and {first}"
            )
    return first


def _samples(
    items: Items,
    split: str | None,
    names: Mapping[str, list[str] | None],
    counts: dict[str, int],
    images: ImageNotes,
) -> list[Sample]:
    """The samples of a Dataset; raises `counts` (task -> number of classes) for tasks without class names."""
    if not len(items):
        raise UserError(f"{items.name}: the Dataset is empty")
    _check_repeatable(items)
    groups = getattr(items.dataset, "groups", None)
    if groups is not None and len(groups) != len(items):
        raise UserError(f"{items.name}: expected {len(items)} groups, one per item, got {len(groups)}")
    hide_progress = len(items) < 500 or not sys.stderr.isatty()
    samples = []
    for index in track(range(len(items)), "Reading the Dataset", console=Console(stderr=True), disable=hide_progress):
        height, width = items.image(index).shape[-2:]
        targets = {}
        for task, kind in items.kinds.items():
            target = targets[task] = items.target(index, task, (height, width))
            if target is None:
                continue
            count = kind.class_count(target)
            if names[task] is None and (counts[task] == 0 or not kind.value_per_class):
                counts[task] = max(counts[task], count)
            if count > counts[task] or (kind.value_per_class and count != counts[task]):
                problem = f"{count} values" if kind.value_per_class else f"the label {count - 1}"
                raise UserError(
                    f"{items.name}[{index}]: {task} target: {problem}, but there are {counts[task]} classes"
                    + (f" ({', '.join(names[task] or [])})" if names[task] else "")
                )
            if kind.has_geometry:
                load = partial(items.target, index, task)
                targets[task] = StoredTarget(kind.labels(target), fingerprint({task: target}), load)
        path = f"{split or type(items.dataset).__name__}/{index:06d}"
        images.record({path: {"values": items.grey_values(index)}})
        samples.append(
            Sample(
                path,
                targets,
                split,
                None if groups is None else str(groups[index]),
                image=partial(items.image, index),
                content=items.content(index),
            )
        )
    return samples


def _check_repeatable(items: Items) -> None:
    content = items.content(0)
    items.reload()
    if items.content(0) != content:
        raise UserError(
            f"{items.name}[0] returns a different image each time: move random transforms to augment, such as "
            "augment=standard, so that runs can be resumed and compared"
        )
