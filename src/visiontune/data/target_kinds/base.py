"""The properties of a kind of target."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchvision.transforms import v2


class TargetKind:
    """The properties of one kind of target. A new kind is a subclass with an entry in `KINDS`.

    The defaults describe plain values: no class labels, no geometry, no mixing.

    Attributes:
        name: `TaskInfo.kind`.
        names_classes: the targets hold labels of `TaskInfo.classes`. Otherwise `classes` are the names of values or
            channels.
        single_label: every image has exactly one class.
        has_geometry: the transforms move the target together with the image.
        recolored: the target is an image whose colours change together with the input's.
        value_per_class: a target has one value (or channel) for each of `TaskInfo.classes`.
        evidence: what a val split needs of the kind, see `decides`.
    """

    name = ""
    names_classes = False
    single_label = False
    has_geometry = False
    recolored = False
    value_per_class = False
    evidence = "label"

    def labels(self, target: Any) -> Sequence[int]:
        """The class labels of a loaded target, one per object or class in it."""
        return []

    def decides(self, targets: Sequence[tuple[Any, Sequence[int]]]) -> bool:
        """Whether metrics on these targets can tell better epochs from worse ones.

        Args:
            targets: each target, which is not None and may be `Stored`, with its class labels.
        """
        return any(labels or not self.names_classes for _, labels in targets)

    def steps_before(self) -> list[v2.Transform]:
        """Transforms that prepare the target before any geometric step."""
        return []

    def steps_after(self, min_visible: float) -> list[v2.Transform]:
        """Transforms that clean up the target after all geometric steps."""
        return []

    def convert(self, value: Any, size: tuple[int, int]) -> Any:
        """A target in the form of `visiontune.data.targets`, from the value that a user's Dataset returns.

        Args:
            size: (H, W) of the image.

        Raises:
            ValueError: the value is invalid; the message says what was expected and what came.
        """
        return value

    def relabel(self, target: Any, labels: Sequence[int | None], count: int) -> Any:
        """A loaded target with other class numbers; None if it has no label then.

        Args:
            labels: the new number of each class; None leaves out its labels.
            count: the new number of classes.
        """
        return target

    def class_count(self, target: Any) -> int:
        """The number of values or channels of a target (`value_per_class`), else its largest label + 1."""
        return max(self.labels(target), default=-1) + 1


class MixableKind(TargetKind, ABC):
    """A kind whose targets mixup and cutmix can mix, as soft vectors."""

    @abstractmethod
    def soft_vector(self, target: Any, classes: int) -> Tensor:
        """The target as float ``(classes,)``."""
