"""The kinds of targets, and their properties for mixing, transforms, splits and counts.

A new kind is a subclass of `TargetKind` and an entry here; no other code checks for a kind.
"""

from collections.abc import Collection, Iterable

from torchvision.transforms import v2

from visiontune.data.target_kinds.base import MixableKind, TargetKind
from visiontune.data.target_kinds.dense import Dense
from visiontune.data.target_kinds.objects import Detection, Instances
from visiontune.data.target_kinds.segmentation import Segmentation
from visiontune.data.target_kinds.vectors import Classification, Multilabel, Regression

__all__ = ["KINDS", "MixableKind", "TargetKind", "steps_after", "steps_before"]

KINDS: dict[str, TargetKind] = {
    kind.name: kind
    for kind in (
        Classification(),
        Multilabel(),
        Regression(),
        Segmentation(),
        Detection(),
        Instances(),
        Dense(),
    )
}


def steps_before(kinds: Collection[TargetKind]) -> list[v2.Transform]:
    """The transforms before all geometric ones for targets of these kinds, each once."""
    return _once(step for kind in kinds for step in kind.steps_before())


def steps_after(kinds: Collection[TargetKind], min_visible: float = 0.0) -> list[v2.Transform]:
    """The transforms after all geometric ones, each once; `min_visible` is that of `Tidy`."""
    return _once(step for kind in kinds for step in kind.steps_after(min_visible))


def _once(steps: Iterable[v2.Transform]) -> list[v2.Transform]:
    return list({type(step): step for step in steps}.values())
