"""What a reader gives: tasks with their classes, samples with their targets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from visiontune.data.target_kinds import KINDS, TargetKind
from visiontune.data.targets import Stored

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TaskInfo:
    """One task of a data set; the only owner of its class names.

    Attributes:
        kind: the kind of target, such as ``classification``.
        classes: class names in label order, or the names of values or channels.
    """

    kind: str
    classes: list[str]

    @property
    def target_kind(self) -> TargetKind:
        """The facts of its targets; a kind without an entry in `KINDS` is a plain value."""
        return KINDS.get(self.kind) or TargetKind()

    def labels(self, target: Any) -> Sequence[int]:
        """The class labels of a target: one a class, object or class that occurs; empty for None and for values."""
        if isinstance(target, Stored):
            return target.labels
        return [] if target is None else self.target_kind.labels(target)


@dataclass(frozen=True)
class Sample:
    """One image and what is known of it.

    Attributes:
        path: relative to the source's root, with forward slashes; a made-up name (``digits/0007``) where the
            image lives in memory.
        targets: task -> target, or how to get it (`Stored`). A missing or None target means: not labelled for this
            task. Targets with geometry are tv_tensors, so that the transforms move them with the image.
        split: what the owner of the data said, or None.
        group: samples of one group never straddle two splits (a patient, a video, a burst).
        image: ``(C, H, W)`` uint8 where the set lives in memory, or a function that loads it; None where it is the file
            at `path`.
        content: hash of the image's content; the scan fills it in where the reader does not.
    """

    path: str
    targets: dict[str, Any]
    split: str | None = None
    group: str | None = None
    image: Tensor | Callable[[], Tensor] | None = None
    content: str = ""


@dataclass(frozen=True)
class Source:
    """A data set as its reader found it: nothing verified, nothing split.

    Attributes:
        notes: whatever was left out, in words; never silent.
        root: the folder that sample paths are relative to; None where no image is a file.
    """

    schema: dict[str, TaskInfo]
    samples: list[Sample]
    notes: list[str] = field(default_factory=list)
    root: Path | None = None
