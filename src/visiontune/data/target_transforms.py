"""Transforms of targets beyond those of torchvision: fill values, removal of invisible objects, recoloring."""

import math
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_area, masks_to_boxes
from torchvision.transforms import v2

from visiontune.data.targets import IGNORE, LabelMap


class Measurement(tv_tensors.Mask):
    """A dense target of real numbers ``(C, H, W)``: never interpolated or recolored, NaN where the value is unknown."""


class Fill:
    """The fill value of padding: `grey` (0..255) in images, `IGNORE` in label maps, 0 in masks, NaN in measurements."""

    def __init__(self, grey: float) -> None:
        self.by_type: dict[type | str, float] = {
            LabelMap: IGNORE,
            tv_tensors.Mask: 0,
            Measurement: math.nan,
            "others": grey,
        }

    def value_for(self, inpt: Any) -> float:
        return self.by_type.get(type(inpt), self.by_type["others"])


class KeepWhole(v2.Transform):
    """Add a copy of the boxes as `whole`, which later crops do not clip."""

    def forward(self, image: Any, targets: dict[str, Any] | None = None) -> Any:
        if targets is None:
            return image
        return image, {
            task: {
                **target,
                "whole": tv_tensors.wrap(target["boxes"].clone(), like=target["boxes"], clamping_mode=None),
            }
            if isinstance(target, dict) and "boxes" in target
            else target
            for task, target in targets.items()
        }


class Measure(v2.Transform):
    """Mark dense targets of real numbers as `Measurement`, to tell them from images."""

    def forward(self, image: Any, targets: dict[str, Any] | None = None) -> Any:
        if targets is None:
            return image
        return image, {
            task: Measurement(target) if isinstance(target, tv_tensors.Image) and target.is_floating_point() else target
            for task, target in targets.items()
        }


class Tidy(v2.Transform):
    """Clip boxes to the image, fit them to their masks, and drop objects that are no longer visible.

    An object is dropped if less than a pixel of its width or height is left, or less than `min_visible` (0..1) of the
    area of its whole box, as copied by `KeepWhole`.
    """

    def __init__(self, min_visible: float = 0.0) -> None:
        super().__init__()
        self.min_visible = min_visible

    def forward(self, image: Any, targets: dict[str, Any] | None = None) -> Any:
        if targets is None:
            return image
        return image, {
            task: self._tidy(target) if isinstance(target, dict) and "boxes" in target else target
            for task, target in targets.items()
        }

    def _tidy(self, target: dict[str, Tensor]) -> dict[str, Tensor]:
        boxes = target["boxes"]
        assert isinstance(boxes, tv_tensors.BoundingBoxes)
        height, width = boxes.canvas_size
        plain = boxes.as_subclass(Tensor)
        clipped = plain.clamp(plain.new_zeros(4), plain.new_tensor([width, height, width, height]))
        keep = box_area(clipped) >= self.min_visible * box_area(target.get("whole", boxes).as_subclass(Tensor))
        if "masks" in target:
            masks = target["masks"].as_subclass(Tensor)
            keep &= (masks > 0).flatten(1).any(1)
            clipped[keep] = _around(masks[keep])
        keep &= (clipped[:, 2:] - clipped[:, :2]).amin(1) >= 1
        # Every entry has one row per object.
        visible = {key: tv_tensors.wrap(value[keep], like=value) for key, value in target.items() if key != "whole"}
        return {**visible, "boxes": tv_tensors.wrap(clipped[keep], like=boxes)}


def _around(masks: Tensor) -> Tensor:
    """The tightest boxes ``(N, 4)``; those of torchvision end at the last pixel instead of after it."""
    return masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])


class ImageOnly(v2.Transform):
    """Apply a transform to the image and not to the targets."""

    def __init__(self, step: v2.Transform) -> None:
        super().__init__()
        self.step = step

    def forward(self, image: Any, targets: dict[str, Any] | None = None) -> Any:
        return self.step(image) if targets is None else (self.step(image), targets)


class RecolorTargets(v2.Transform):
    """Apply a transform to the image and to targets that are images with the same channels and dtype."""

    def __init__(self, step: v2.Transform) -> None:
        super().__init__()
        self.step = step

    def forward(self, image: Any, targets: dict[str, Any] | None = None) -> Any:
        if targets is None:
            return self.step(image)
        alike = {
            task: target
            for task, target in targets.items()
            if isinstance(target, tv_tensors.Image) and len(target) == len(image) and target.dtype == image.dtype
        }
        image, alike = self.step(image, alike)
        return image, {**targets, **alike}
