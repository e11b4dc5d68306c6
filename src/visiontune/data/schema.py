"""What a reader gives: tasks with their classes, samples with their targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from visiontune.data.targets import IGNORE, LabelMap, Stored

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TaskInfo:
    """One task of a data set; the only owner of its class names.

    Attributes:
        kind: which sort of head answers it, such as ``classification``.
        classes: names in label order; empty where there are none.
    """

    kind: str
    classes: list[str]

    @property
    def names_classes(self) -> bool:
        """Whether its targets are of these classes; elsewhere `classes` are what values or channels are called."""
        return self.kind in ("classification", "multilabel", "detection", "instances", "segmentation")

    @property
    def one_class(self) -> bool:
        """Whether every image is of one class."""
        return self.kind == "classification"


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
        image: ``(C, H, W)`` uint8 where the set lives in memory.
        content: hash of the image's content, filled by the scan.
    """

    path: str
    targets: dict[str, Any]
    split: str | None = None
    group: str | None = None
    image: Tensor | None = None
    content: str = ""


@dataclass(frozen=True)
class Source:
    """A data set as its reader found it: nothing verified, nothing split.

    Attributes:
        notes: whatever was left out, in words; never silent.
        root: the folder that sample paths are relative to; None where every image is in memory.
    """

    schema: dict[str, TaskInfo]
    samples: list[Sample]
    notes: list[str] = field(default_factory=list)
    root: Path | None = None


def labels_in(target: Any, kind: str) -> Sequence[int]:
    """The class labels that a target of this kind names: one a class, object or class that occurs; none for values."""
    if isinstance(target, Stored):
        return target.labels
    if isinstance(target, int):
        return [target]
    if isinstance(target, Mapping):
        return [int(label) for label in target["labels"]]
    if isinstance(target, Tensor) and kind == "multilabel":
        return (target > 0).nonzero()[:, 0].tolist()
    if isinstance(target, LabelMap):
        return [label for label in target.unique().tolist() if label != IGNORE]
    return []
