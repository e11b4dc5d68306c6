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
from visiontune.data.image_files import reason
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
        check.compare([(*self.boxes[i], self.labels[i]) for i in indices], lambda i: where(indices[i]))
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
    if is_empty(segmentation):
        return None
    if isinstance(segmentation, Mapping):
        return _run_lengths(segmentation, size)
    if not isinstance(segmentation, list):
        raise ValueError("its segmentation is neither a list of polygons nor run lengths")
    return [polygon(part) for part in _parts(segmentation)]


def is_empty(segmentation: Any) -> bool:
    """Whether there is no segmentation: null, an empty text, list or mapping, or a list of these."""
    if isinstance(segmentation, list):
        return all(part in (None, "", [], {}) for part in segmentation)
    return segmentation in (None, "", {})


def has_outline(segmentation: Any) -> bool:
    """Whether a segmentation has the form of polygons or run lengths; quicker than `parse`."""
    if isinstance(segmentation, Mapping):
        return "counts" in segmentation
    if not isinstance(segmentation, list):
        return False
    return not is_empty(segmentation) and all(
        isinstance(part, list) and ((len(part) >= 6 and len(part) % 2 == 0) or isinstance(part[0], list))
        for part in _parts(segmentation)
    )


def _parts(segmentation: list[Any]) -> list[Any]:
    """The polygons that are not empty; one polygon may stand without the list around it."""
    if all(isinstance(part, int | float) or (isinstance(part, list) and len(part) == 2) for part in segmentation):
        return [segmentation]
    return [part for part in segmentation if part not in (None, "", [], {})]


def polygon(numbers: Any) -> np.ndarray:
    """The numbers x, y, x, y, ... (or pairs of them) as a float64 array.

    Raises:
        ValueError: they are not the coordinates of three points or more.
    """
    try:
        points = np.asarray(numbers, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.array([np.nan])
    if points.ndim == 2 and points.shape[1] == 2:
        points = points.reshape(-1)
    if points.ndim != 1 or not np.isfinite(points).all():
        raise ValueError("its polygon is not made of numbers")
    if len(points) < 6 or len(points) % 2:
        raise ValueError(f"its polygon has {len(points)} numbers; three points or more are x, y, x, y, x, y, ...")
    return points


def bounds(segment: Segment) -> list[float]:
    """The smallest box around a segment, x1, y1, x2, y2."""
    if isinstance(segment, dict):
        x, y, width, height = coco_mask.toBbox(segment).tolist()
        return [x, y, x + width, y + height]
    points = np.concatenate([part.reshape(-1, 2) for part in segment])
    return [*points.min(0).tolist(), *points.max(0).tolist()]


def meets(segment: Segment | None, box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether polygons overlap their box (x1, y1, x2, y2), and are not far outside their image.

    True for run lengths, which always have the size of the image. A box that leaves the image is reported by another
    check.

    Raises:
        ValueError: the polygons have no area.
    """
    if not isinstance(segment, list):
        return True
    x1, y1, x2, y2 = bounds(segment)
    if x1 == x2 or y1 == y2:
        raise ValueError("its polygons have no area")
    if max(abs(x1), abs(y1), abs(x2), abs(y2)) > 10 * max(size):  # memory for drawing grows with the coordinates
        return False
    in_image = min(box[:2]) >= -ROUNDING and box[2] <= size[1] + ROUNDING and box[3] <= size[0] + ROUNDING
    if not in_image:  # also for NaN
        return True
    return x1 <= box[2] + ROUNDING and y1 <= box[3] + ROUNDING and x2 >= box[0] - ROUNDING and y2 >= box[1] - ROUNDING


def _run_lengths(segmentation: Mapping[str, Any], size: tuple[int, int]) -> Segment:
    counts = segmentation.get("counts")
    if segmentation.get("size") != list(size):
        raise ValueError(
            f"its run lengths are of size {segmentation.get('size')!r:.60}, the image's is {list(size)} (H, W)"
        )
    rle: dict[str, Any] = {"size": list(size), "counts": counts}
    try:
        if isinstance(counts, list):
            if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != size[0] * size[1]:
                raise ValueError(f"they do not add up to {size[0] * size[1]} pixels")
            rle = coco_mask.frPyObjects(rle, *size)
        mask = coco_mask.decode(rle)  # only decoding notices lengths with a wrong sum
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise ValueError(f"its run lengths are broken ({reason(error)})") from error
    if not mask.any():
        raise ValueError("its run lengths are empty")
    return rle
