"""Segmentation targets: the class of each pixel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from visiontune.data.target_kinds.base import TargetKind
from visiontune.data.target_kinds.vectors import describe
from visiontune.data.targets import IGNORE, LabelMap


class Segmentation(TargetKind):
    name = "segmentation"
    names_classes = True
    has_geometry = True
    evidence = "labelled pixel"

    def labels(self, target: Any) -> Sequence[int]:
        return [label for label in target.unique().tolist() if label != IGNORE]

    def relabel(self, target: Any, labels: Sequence[int | None], count: int) -> LabelMap:
        table = torch.full((IGNORE + 1,), IGNORE, dtype=torch.uint8)
        table[: len(labels)] = torch.tensor([IGNORE if label is None else label for label in labels])
        return LabelMap(table[target.as_subclass(torch.Tensor).long()])

    def convert(self, value: Any, size: tuple[int, int]) -> LabelMap:
        labels = np.asarray(value)
        if labels.shape != size or labels.dtype.kind not in "iu":
            raise ValueError(f"expected integers of the image's shape {size}, got {describe(labels)}")
        if labels.min() < 0 or labels.max() > IGNORE:
            raise ValueError(
                f"expected labels from 0 to 254, or {IGNORE} for unlabelled pixels, got {labels.min()}..{labels.max()}"
            )
        return LabelMap(torch.from_numpy(labels.astype(np.uint8)))
