"""The forms of targets. Targets with geometry are tv_tensors, so that transforms move them with the image.

| task | target |
| --- | --- |
| classification | int |
| multilabel | float `(C,)` of 0 and 1 |
| regression | float `(V,)`, in the user's units |
| segmentation | `LabelMap` `(H, W)` uint8, `IGNORE` for unlabelled pixels |
| detection | `{"boxes": BoundingBoxes (N, 4) XYXY float32, "labels": (N,) int64, "crowd": (N,) bool}`; \
`"area": (N,) float32`, in pixels of the image on disk, if the annotations have it |
| instances | the same with `"masks": Mask (N, H, W) uint8 of 0 and 1` |
| dense | `tv_tensors.Image (C, H, W)`, uint8 or float 0..1 |
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor
from torchvision import tv_tensors

IGNORE = 255


class LabelMap(tv_tensors.Mask):
    """The class of each pixel, ``(H, W)`` uint8; `IGNORE` for unlabelled pixels and padding."""


class Stored(Protocol):
    """A target that is loaded from a file, or drawn from polygons, on demand."""

    @property
    def labels(self) -> Sequence[int]:
        """Its class labels, one per object (for label maps, one per class that occurs)."""

    def load(self, size: tuple[int, int]) -> Any:
        """The target of an image of (H, W) pixels.

        Raises:
            UserError: it cannot be read, or has another size.
        """


def is_stored(target: Any) -> TypeGuard[Stored]:
    """Whether a target is `Stored`; `isinstance` of a protocol takes a hundred times as long."""
    return hasattr(target, "load")


def objects(
    boxes: Tensor | Sequence[Sequence[float]],
    labels: Tensor | Sequence[int],
    size: tuple[int, int],
    *,
    masks: Tensor | None = None,
    crowd: Tensor | Sequence[bool] | None = None,
    area: Tensor | Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """A detection target (an instances target with `masks`) of an image of (H, W) pixels; it may have no objects.

    Args:
        boxes: ``(N, 4)`` x1, y1, x2, y2 in pixels.
        crowd: which boxes cover many objects; metrics ignore them.
        area: areas for metrics by object size; None (or 0 for a single object) means the area of its mask or box.
    """
    coordinates = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    target: dict[str, Tensor] = {
        "boxes": tv_tensors.BoundingBoxes(
            coordinates,
            format="XYXY",
            canvas_size=size,
        ),
        "labels": torch.as_tensor(labels, dtype=torch.int64).reshape(-1),
        "crowd": torch.zeros(len(coordinates), dtype=torch.bool)
        if crowd is None
        else torch.as_tensor(crowd, dtype=torch.bool).reshape(-1),
    }
    if area is not None:
        target["area"] = torch.as_tensor(area, dtype=torch.float32).reshape(-1)
    if masks is not None:
        target["masks"] = tv_tensors.Mask(masks.to(torch.uint8))
    return target
