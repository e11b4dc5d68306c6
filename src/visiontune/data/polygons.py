"""Instances from annotation files, as polygons or run lengths, drawn on demand.

The masks equal those of pycocotools (the rules of COCO); they are drawn by faster_coco_eval, which contains its code.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_mask
from torch import Tensor
from torchvision import tv_tensors

from visiontune.data.boxes import ROUNDING, BoxCheck, StoredBoxes
from visiontune.data.images import reason
from visiontune.data.targets import Stored

# Polygons (flat x, y in pixels; the mask is their union), or COCO's compressed run lengths.
Segment = list[np.ndarray] | dict[str, Any]


@dataclass(frozen=True, eq=False)
class StoredInstances:
    """An instances target whose masks are drawn on demand, and its boxes."""

    boxes: StoredBoxes
    segments: list[Segment]

    @property
    def labels(self) -> list[int]:
        return self.boxes.labels

    @property
    def crowd(self) -> list[bool]:
        return self.boxes.crowd

    def load(self, size: tuple[int, int]) -> dict[str, Tensor]:
        target = self.boxes.load(size)
        masks = np.zeros((len(self.segments), *size), dtype=np.uint8)
        for mask, segment in zip(masks, self.segments, strict=True):
            mask[:] = draw(segment, size)
        return {**target, "masks": tv_tensors.Mask(torch.from_numpy(masks))}


@dataclass
class Objects:
    """The annotated objects of one image, before any check.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels.
        segments: None for an object that has only a box.
    """

    boxes: list[Sequence[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    segments: list[Segment | None] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)

    def add(
        self,
        box: Sequence[float],
        label: int,
        crowd: bool = False,
        segment: Segment | None = None,
        area: float = 0.0,
    ) -> None:
        self.boxes.append(box)
        self.labels.append(label)
        self.crowd.append(crowd)
        self.segments.append(segment)
        self.areas.append(area)

    def stored(self, size: tuple[int, int], check: BoxCheck, where: Callable[[int], str]) -> dict[str, Stored]:
        """task -> target: `detection`, and `instances` if every object that passes the check has a segment."""
        coordinates, indices = check(self.boxes, size, where)
        areas = [self.areas[i] for i in indices] if any(self.areas) else None
        boxes = StoredBoxes(
            coordinates, [self.labels[i] for i in indices], [self.crowd[i] for i in indices], size, areas
        )
        segments = [segment for i in indices if (segment := self.segments[i]) is not None]
        if len(segments) < len(indices):
            return {"detection": boxes}
        return {"detection": boxes, "instances": StoredInstances(boxes, segments)}


def draw(segment: Segment, size: tuple[int, int]) -> np.ndarray:
    """``(H, W)`` uint8 of 0 and 1."""
    if isinstance(segment, dict):
        return coco_mask.decode(segment)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segment, *size)))


def parse(segmentation: Any, size: tuple[int, int]) -> Segment | None:
    """Parse the `segmentation` of a COCO annotation; None if it is empty.

    Raises:
        ValueError: it is neither polygons nor run lengths of an image of `size`.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, Mapping):
        return _run_lengths(segmentation, size)
    if not isinstance(segmentation, list):
        raise ValueError("its segmentation is neither a list of polygons nor run lengths")
    return [polygon(numbers) for numbers in segmentation]


def polygon(numbers: Any) -> np.ndarray:
    """The numbers x, y, x, y, ... as a float64 array.

    Raises:
        ValueError: they are not the coordinates of three points or more.
    """
    try:
        points = np.asarray(numbers, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.array([np.nan])
    if points.ndim != 1 or not np.isfinite(points).all():
        raise ValueError("its polygon is not made of numbers")
    if len(points) < 6 or len(points) % 2:
        raise ValueError(f"its polygon has {len(points)} numbers; three points or more are x, y, x, y, x, y, ...")
    return points


def meets(segment: Segment | None, box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether polygons overlap their box (x1, y1, x2, y2).

    True for run lengths, which always have the size of the image, and if the box leaves the image, which another check
    reports.
    """
    box_in_image = min(box[:2]) >= -ROUNDING and box[2] <= size[1] + ROUNDING and box[3] <= size[0] + ROUNDING
    if not isinstance(segment, list) or not box_in_image:
        return True
    points = np.concatenate([part.reshape(-1, 2) for part in segment])
    low, high = points.min(0), points.max(0)
    near = np.abs(points).max() <= 10 * max(size)  # memory for drawing grows with the largest coordinate
    return bool(near and (low <= np.array(box[2:]) + ROUNDING).all() and (high >= np.array(box[:2]) - ROUNDING).all())


def _run_lengths(segmentation: Mapping[str, Any], size: tuple[int, int]) -> Segment:
    counts = segmentation.get("counts")
    if segmentation.get("size") != list(size):
        raise ValueError(f"its run lengths are of size {segmentation.get('size')}, the image's is {list(size)} (H, W)")
    rle: dict[str, Any] = {"size": list(size), "counts": counts}
    try:
        if isinstance(counts, list):
            rle = coco_mask.frPyObjects(rle, *size)
        mask = coco_mask.decode(rle)  # only decoding notices lengths with a wrong sum
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"its run lengths are broken ({reason(error)})") from error
    if not mask.any():
        raise ValueError("its run lengths are empty")
    return rle
