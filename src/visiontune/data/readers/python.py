"""A Dataset of your own: any class with `__len__` and `__getitem__` that returns (image, target).

Every item is read once before training: its image is hashed, its target is checked. After that images, masks and
boxes are loaded again when they are needed, in the data-loader workers; class labels and vectors stay in memory.
The splits follow from the hashes of the images, not from the order of the items.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import track

from visiontune.data.fingerprint import fingerprint
from visiontune.data.readers.folders import SPLIT_NAMES
from visiontune.data.readers.python_items import Items
from visiontune.data.schema import Sample, Source, TaskInfo
from visiontune.data.target_kinds import KINDS
from visiontune.data.user_code import build_object
from visiontune.errors import UserError

EXAMPLE = (
    "write data.dataset._target_=birds.Birds (a class with __len__ and __getitem__), or one a split: "
    "data.dataset='{train: {_target_: birds.Birds, split: train}, val: {_target_: birds.Birds, split: val}}'"
)


@dataclass(frozen=True, eq=False)
class StoredTarget:
    """A target with geometry, which is loaded from the Dataset when it is needed."""

    labels: Sequence[int]
    content: str
    load: Callable[[tuple[int, int]], Any]


def read(
    dataset: Mapping[str, Any] | None = None,
    task: str | Sequence[str] | Mapping[str, str] = "classification",
    classes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    channels: int = 3,
) -> Source:
    """Read a Dataset, or one a split.

    A Dataset may have `classes`, the class names (by task where there are several), and `groups`, a name for each
    item: items of one group never stand in two splits.

    Args:
        dataset: `_target_` and its arguments; or split -> such a mapping.
        task: the kind of the targets, which is the name of the task as well. A list of kinds, or task -> kind, where
            targets are mappings {task: target}.
        classes: names in label order, instead of those of the Dataset; by task where there are several.
        channels: of the images, as `data.channels` says.

    Raises:
        UserError: a class cannot be imported or built, or an item is not what it should be.
    """
    kinds = _kinds(task)
    parts = {split: _build(node, _name(split)) for split, node in _parts(dataset).items()}
    names = {name: _names(classes, name) or _dataset_names(parts, name) for name in kinds}
    counts = {name: len(names[name] or ()) for name in kinds}
    samples = []
    for split, part in parts.items():
        items = Items(part, {name: KINDS[kind] for name, kind in kinds.items()}, isinstance(task, str), channels)
        items.name = _name(split)
        samples += _samples(items, split, names, counts)
    notes = []
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
    kinds = {task: task} if isinstance(task, str) else dict(task) if isinstance(task, Mapping) else {t: t for t in task}
    for kind in kinds.values():
        if kind not in KINDS:
            raise UserError(
                f"data.task: unknown kind of target {kind!r}: write data.task=KIND, one of {', '.join(KINDS)}"
            )
    if not kinds:
        raise UserError("data.task is empty: write e.g. data.task=classification")
    return kinds


def _parts(dataset: Mapping[str, Any] | None) -> dict[str | None, Mapping[str, Any]]:
    """split -> the `_target_` and arguments of its Dataset; None stands for a Dataset that is not split yet."""
    # The keys that the YAML file declares are null where they are not used; `train` may also be an argument.
    declared = ("_target_", "train", "val", "test")
    nodes = {key: value for key, value in (dataset or {}).items() if key not in declared or value is not None}
    if "_target_" in nodes:
        return {None: nodes}
    if not nodes or set(nodes) - set(SPLIT_NAMES) or any("_target_" not in (node or {}) for node in nodes.values()):
        raise UserError(f"data.dataset={nodes or None}: expected a _target_: {EXAMPLE}")
    return {SPLIT_NAMES[split]: node for split, node in nodes.items()}


def _build(node: Mapping[str, Any], name: str) -> Any:
    return build_object(
        node,
        name,
        lambda cls: hasattr(cls, "__getitem__") and hasattr(cls, "__len__"),
        f"a class with __len__ and __getitem__; {EXAMPLE}",
    )


def _names(classes: Any, task: str) -> list[str] | None:
    """The class names for a task, given as a list or as task -> list."""
    names = classes.get(task) if isinstance(classes, Mapping) else classes
    return [str(name) for name in names] if names else None


def _dataset_names(parts: Mapping[str | None, Any], task: str) -> list[str] | None:
    found = {split: _names(getattr(part, "classes", None), task) for split, part in parts.items()}
    first = next(iter(found.values()))
    for split, names in found.items():
        if names != first:
            raise UserError(f"{_name(split)} has other classes than {_name(next(iter(found)))}: {names} and {first}")
    return first


def _samples(
    items: Items, split: str | None, names: Mapping[str, list[str] | None], counts: dict[str, int]
) -> list[Sample]:
    """The samples of a Dataset; `counts` (task -> number of classes) grows where there are no names."""
    if not len(items):
        raise UserError(f"{items.name}: the Dataset is empty")
    _check_repeatable(items)
    groups = getattr(items.dataset, "groups", None)
    if groups is not None and len(groups) != len(items):
        raise UserError(f"{items.name}: expected {len(items)} groups, one an item, got {len(groups)}")
    quiet = len(items) < 500 or not sys.stderr.isatty()
    samples = []
    for index in track(range(len(items)), "Reading the Dataset", console=Console(stderr=True), disable=quiet):
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
                what = f"{count} values" if kind.value_per_class else f"the label {count - 1}"
                raise UserError(
                    f"{items.name}[{index}]: {task} target: {what}, but there are {counts[task]} classes"
                    + (f" ({', '.join(names[task] or [])})" if names[task] else "")
                )
            if kind.has_geometry:
                load = partial(items.target, index, task)
                targets[task] = StoredTarget(kind.labels(target), fingerprint({task: target}), load)
        samples.append(
            Sample(
                f"{split or type(items.dataset).__name__}/{index:06d}",
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
            f"{items.name}[0] gives another image each time: leave random transforms to augment, such as "
            "augment=standard, so that runs can be resumed and compared"
        )
