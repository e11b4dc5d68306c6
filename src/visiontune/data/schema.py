"""The result of a reader: tasks with their classes, and samples with their targets."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from visiontune.data.target_kinds import KINDS, TargetKind
from visiontune.data.targets import is_stored
from visiontune.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TaskInfo:
    """One task of a data set, with its class names.

    Attributes:
        kind: the kind of target, such as ``classification``.
        classes: class names in label order, or the names of values or channels.
    """

    kind: str
    classes: list[str]

    @property
    def target_kind(self) -> TargetKind:
        """The properties of its targets; a kind that is not in `KINDS` is a plain value."""
        return KINDS.get(self.kind) or TargetKind()

    def labels(self, target: Any) -> Sequence[int]:
        """The class labels of a target, one per object or class in it; empty for None and plain values."""
        if target is None:
            return ()
        return target.labels if is_stored(target) else self.target_kind.labels(target)

    def decides(self, targets: Iterable[Any]) -> bool:
        """Whether a val split with these targets can tell better epochs from worse ones."""
        return self.target_kind.decides([(target, self.labels(target)) for target in targets if target is not None])


def select_tasks(schema: Mapping[str, TaskInfo], tasks: Sequence[str]) -> dict[str, TaskInfo]:
    """The schema of these tasks only. Raises UserError if one of them is not in it."""
    if missing := [task for task in tasks if task not in schema]:
        raise UserError(
            f"heads.{missing[0]}: the data has no such task, it has {', '.join(schema)}; choose heads for these, or "
            f"write ~heads.{missing[0]}"
        )
    return {task: schema[task] for task in tasks}


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its targets.

    Attributes:
        path: relative to the source's root, with forward slashes; a name such as ``digits/0007`` for an image in
            memory.
        targets: task -> target, or a `Stored` that loads it. With a missing or None target, the image is not labelled
            for the task. Targets with geometry are tv_tensors, so that transforms move them with the image. Samples may
            share the dictionary.
        split: the split that the data set assigns, or None.
        group: samples of one group are always in the same split (a patient, a video, a burst).
        image: ``(C, H, W)`` uint8 of an image in memory, or a function that loads it; None for a file at `path`.
        content: hash of the image; filled in by `verify` if the reader does not set it.
    """

    path: str
    targets: dict[str, Any]
    split: str | None = None
    group: str | None = None
    image: Tensor | Callable[[], Tensor] | None = None
    content: str = ""


@dataclass(frozen=True)
class Source:
    """The result of a reader, before verification and splitting.

    Attributes:
        notes: messages about everything that is left out.
        root: the folder that sample paths are relative to; None if no image is a file.
    """

    schema: dict[str, TaskInfo]
    samples: list[Sample]
    notes: list[str] = field(default_factory=list)
    root: Path | None = None
