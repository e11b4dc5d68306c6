"""Another labelled data set for a trained model: one split, and classes that are matched by name."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from visiontune.data.schema import SPLITS, Sample, Source, TaskInfo
from visiontune.data.target_kinds import TargetKind
from visiontune.data.targets import Stored, is_stored
from visiontune.data.text import normalized
from visiontune.errors import UserError, some

ALL = "all"  # the name of the split


def one_split(
    samples: Sequence[Sample], schema: Mapping[str, TaskInfo], **_: Any
) -> tuple[dict[str, list[Sample]], list]:
    """As `assign`: all samples are the split `all`."""
    return {**{split: [] for split in SPLITS}, ALL: sorted(samples, key=lambda sample: sample.path)}, []


@dataclass(frozen=True, eq=False)
class Relabelled:
    """A target with other class numbers, see `TargetKind.relabel`."""

    target: Stored
    kind: TargetKind
    numbers: tuple[int | None, ...]
    count: int

    @property
    def labels(self) -> list[int]:
        return [number for label in self.target.labels if (number := self.numbers[label]) is not None]

    def load(self, size: tuple[int, int]) -> Any:
        return self.kind.relabel(self.target.load(size), self.numbers, self.count)


def match_classes(source: Source, schema: Mapping[str, TaskInfo], names: Mapping[str, str | None]) -> Source:
    """The source with the tasks and the class numbers of a model.

    Args:
        schema: the model's tasks.
        names: a class of the source -> the model's class of another name, or None to leave out its labels.

    Raises:
        UserError: the source has none of the tasks, or labels of a class that the model does not have; or `names` has a
            class that the source or the model does not have.
    """
    tasks = [task for task in schema if task in source.schema]
    if not tasks:
        raise UserError(f"the data has labels of {', '.join(source.schema)}, and the run has {', '.join(schema)}")
    names = {normalized(name): other for name, other in names.items()}
    data_names = {normalized(name) for task in tasks for name in source.schema[task].classes}
    if unknown := sorted(set(names) - data_names):
        raise UserError(f"classes: the data has no class {unknown[0]!r}; it has {some(sorted(data_names), 20)}")
    run_names = {normalized(name) for task in tasks for name in schema[task].classes}
    if missing := [other for other in names.values() if other is not None and normalized(other) not in run_names]:
        raise UserError(f"classes: the run has no class {missing[0]!r}; it has {some(sorted(run_names), 20)}")
    notes = [f"the data has no labels of {task}" for task in schema if task not in tasks]
    targets: dict[str, dict[str, Any]] = {sample.path: {} for sample in source.samples}
    for task in tasks:
        numbers, left_out = _numbers(task, source, schema[task], names)
        notes += [f"{task}: {count} labels of {name!r} are left out (classes)" for name, count in left_out.items()]
        if missing := [name for number, name in enumerate(schema[task].classes) if number not in numbers]:
            notes.append(f"{task}: the data lacks {len(missing)} of the classes of the run: {some(missing)}")
        for sample in source.samples:
            targets[sample.path][task] = _relabel(sample.targets.get(task), numbers, schema[task])
    samples = [replace(sample, targets=targets[sample.path], split=None) for sample in source.samples]
    labelled = [sample for sample in samples if any(target is not None for target in sample.targets.values())]
    if len(labelled) < len(samples):
        notes.append(f"{len(samples) - len(labelled)} of {len(samples)} images have no label and are left out")
    if not labelled:
        raise UserError(f"no image of the data has a label of {', '.join(tasks)}")
    return replace(source, schema=dict(schema), samples=labelled, notes=[*source.notes, *notes])


def _numbers(
    task: str, source: Source, info: TaskInfo, names: Mapping[str, str | None]
) -> tuple[tuple[int | None, ...], dict[str, int]]:
    """The model's number of each class of the source, and how many labels of which classes are left out."""
    data_info = source.schema[task]
    if data_info.kind != info.kind:
        raise UserError(f"{task}: the data has targets of the kind {data_info.kind}, and the run has {info.kind}")
    model_numbers = {normalized(name): number for number, name in enumerate(info.classes)}
    matches = [names.get(normalized(name), normalized(name)) for name in data_info.classes]
    kind = info.target_kind
    counts = Counter(label for sample in source.samples for label in data_info.labels(sample.targets.get(task)))
    occurs = [kind.value_per_class or not kind.names_classes or counts[i] > 0 for i in range(len(matches))]
    unknown = [
        name
        for name, match, is_present in zip(data_info.classes, matches, occurs, strict=True)
        if is_present and match is not None and normalized(match) not in model_numbers
    ]
    known = some(info.classes, 20)
    if unknown:
        example = f"classes={{{unknown[0]}: {info.classes[0]}}}"
        raise UserError(
            f"{task}: the run does not know these classes of the data: {some(unknown, 20)}; it knows {known}. Write "
            f"which of them they are, such as '{example}', or leave out their labels: 'classes={{{unknown[0]}: null}}'"
        )
    numbers = tuple(None if match is None else model_numbers.get(normalized(match)) for match in matches)
    if kind.value_per_class:
        missing = [name for number, name in enumerate(info.classes) if number not in numbers]
        used = [number for number in numbers if number is not None]
        if (missing and not kind.names_classes) or len(set(used)) < len(used):
            present = some(data_info.classes, 20)
            raise UserError(f"{task}: the data has {present}, and the run needs each of {known} once")
    return numbers, {name: counts[i] for i, name in enumerate(data_info.classes) if matches[i] is None}


def _relabel(target: Any, numbers: tuple[int | None, ...], info: TaskInfo) -> Any:
    if target is None or numbers == tuple(range(len(info.classes))):
        return target
    if is_stored(target):
        return Relabelled(target, info.target_kind, numbers, len(info.classes))
    return info.target_kind.relabel(target, numbers, len(info.classes))
