"""The forms a target takes. What has geometry is a tv_tensor, so that the transforms move it with the image.

| task | target |
| --- | --- |
| classification | int |
| multilabel | float `(C,)` of 0 and 1 |
| regression | float `(V,)`, in the user's units |
| segmentation | `LabelMap` `(H, W)` uint8, `IGNORE` where there is no truth |
| detection | `{"boxes": BoundingBoxes (N, 4) XYXY float32, "labels": (N,) int64, "crowd": (N,) bool}`; \
`"area": (N,) float32`, in pixels of the image as it lies on disk, where the file gives it |
| instances | the same with `"masks": Mask (N, H, W) uint8 of 0 and 1` |
| dense | `tv_tensors.Image (C, H, W)`, uint8 or float 0..1 |
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torchvision import tv_tensors

IGNORE = 255


class LabelMap(tv_tensors.Mask):
    """A class a pixel, ``(H, W)`` uint8; `IGNORE` is no class, and what a transform leaves empty."""


@runtime_checkable
class Stored(Protocol):
    """A target that lies in a file, or is drawn from polygons, when it is needed."""

    @property
    def labels(self) -> Sequence[int]:
        """The class labels in it, one an object (one a class that occurs, for label maps)."""

    def load(self, size: tuple[int, int]) -> Any:
        """The target of an image of (H, W) pixels.

        Raises:
            UserError: it cannot be read, or does not belong to an image of this size.
        """


def objects(
    boxes: Tensor | Sequence[Sequence[float]],
    labels: Tensor | Sequence[int],
    size: tuple[int, int],
    *,
    masks: Tensor | None = None,
    crowd: Tensor | Sequence[bool] | None = None,
    area: Tensor | Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """A detection target (an instances target with `masks`) of an image of (H, W) pixels, also for no objects.

    Args:
        boxes: ``(N, 4)`` x1, y1, x2, y2 in pixels.
        crowd: which of them stand for many; they count neither as found nor as missed.
        area: what metrics by size go by; None (or 0 for one object) is the area of its mask or box.
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
