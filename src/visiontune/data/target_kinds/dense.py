"""Dense targets: images."""

from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from visiontune.data.target_kinds.base import TargetKind
from visiontune.data.target_kinds.vectors import describe
from visiontune.data.target_transforms import Measure


class Dense(TargetKind):
    name = "dense"
    value_per_class = True
    has_geometry = True
    recolored = True

    def steps_before(self) -> list[v2.Transform]:
        return [Measure()]

    def convert(self, value: Any, size: tuple[int, int]) -> tv_tensors.Image:
        image = torch.as_tensor(value)
        if image.ndim != 3 or image.shape[1:] != size or not (image.is_floating_point() or image.dtype == torch.uint8):
            raise ValueError(f"expected an image (C, {size[0]}, {size[1]}), uint8 or float, got {describe(image)}")
        return tv_tensors.Image(image)

    def class_count(self, target: Any) -> int:
        return len(target)
