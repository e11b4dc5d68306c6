"""Detection and instance targets: boxes with class labels, with or without masks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from visiontune.data.boxes import ROUNDING
from visiontune.data.target_kinds.base import TargetKind
from visiontune.data.target_kinds.vectors import describe
from visiontune.data.target_transforms import KeepWhole, Tidy
from visiontune.data.targets import objects


class Detection(TargetKind):
    name = "detection"
    names_classes = True
    has_geometry = True
    keys: tuple[str, ...] = ("boxes", "labels")
    evidence = "object that metrics count"

    def labels(self, target: Any) -> Sequence[int]:
        return [int(label) for label in target["labels"]]

    def decides(self, targets: Sequence[tuple[Any, Sequence[int]]]) -> bool:
        # Metrics ignore crowds and difficult objects.
        return any(len(labels) > sum(map(bool, _crowd(target))) for target, labels in targets)

    def relabel(self, target: Any, labels: Sequence[int | None], count: int) -> dict[str, Tensor]:
        new = [labels[label] for label in self.labels(target)]
        rows = torch.tensor([label is not None for label in new], dtype=torch.bool)
        kept = {key: tv_tensors.wrap(value[rows], like=value) for key, value in target.items()}
        return kept | {"labels": torch.tensor([label for label in new if label is not None], dtype=torch.int64)}

    def steps_before(self) -> list[v2.Transform]:
        return [KeepWhole()]

    def steps_after(self, min_visible: float) -> list[v2.Transform]:
        return [Tidy(min_visible)]

    def convert(self, value: Any, size: tuple[int, int]) -> dict[str, Tensor]:
        if not isinstance(value, Mapping) or not set(self.keys) <= set(value):
            actual = f"the keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else describe(value)
            raise ValueError(f"expected a dict with {', '.join(self.keys)}, got {actual}")
        boxes, labels = np.asarray(value["boxes"], dtype=np.float64), np.asarray(value["labels"])
        if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
            raise ValueError(f"expected boxes (N, 4) of x1, y1, x2, y2 in pixels, got {describe(boxes)}")
        boxes = _inside(boxes.reshape(-1, 4), size)
        if labels.shape != (len(boxes),) or (labels.size and (labels.dtype.kind not in "iu" or labels.min() < 0)):
            raise ValueError(f"expected {len(boxes)} integer labels from 0, one per box, got {describe(labels)}")
        return objects(
            torch.from_numpy(boxes),
            torch.from_numpy(labels.astype(np.int64)),
            size,
            masks=self._masks(value, len(boxes), size),
            crowd=_row_values(value, "crowd", len(boxes)),
            area=_row_values(value, "area", len(boxes)),
        )

    def _masks(self, value: Mapping[str, Any], count: int, size: tuple[int, int]) -> Tensor | None:
        return None


class Instances(Detection):
    name = "instances"
    keys = ("boxes", "labels", "masks")

    def _masks(self, value: Mapping[str, Any], count: int, size: tuple[int, int]) -> Tensor | None:
        masks = np.asarray(value["masks"])
        if not masks.size:
            masks = masks.reshape(0, *size)
        if masks.shape != (count, *size):
            raise ValueError(f"expected masks of shape {(count, *size)}, one per box, got {describe(masks)}")
        return torch.from_numpy(masks > 0)


def _crowd(target: Any) -> Sequence[bool]:
    return target.get("crowd", ()) if isinstance(target, Mapping) else getattr(target, "crowd", ())


def _inside(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The boxes, clipped to the image if they leave it by at most `ROUNDING`.

    Raises:
        ValueError: a box is not made of numbers, has no area, or leaves the image by more than a pixel.
    """
    clipped = boxes.clip(0, np.array([size[1], size[0], size[1], size[0]]))
    with np.errstate(invalid="ignore"):
        invalid = ~((np.abs(boxes - clipped) <= ROUNDING).all(1) & (clipped[:, 2:] > clipped[:, :2]).all(1))
    if invalid.any():
        number = int(np.flatnonzero(invalid)[0])
        raise ValueError(
            f"expected boxes x1 < x2, y1 < y2 within the image of {size[1]}x{size[0]} pixels, got "
            f"{boxes[number].tolist()} as box {number}"
        )
    return clipped


def _row_values(value: Mapping[str, Any], key: str, count: int) -> Tensor | None:
    """The values of an optional key, one per object."""
    if value.get(key) is None:
        return None
    values = torch.from_numpy(np.array(value[key]))
    if values.shape != (count,):
        raise ValueError(f"expected {count} values of {key!r}, one per box, got {describe(values)}")
    return values
