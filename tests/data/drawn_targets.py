"""Images of rectangles, and every kind of target for them."""

import torch
from torch import Tensor
from torchvision import tv_tensors

from visiontune.data.target_kinds import KINDS
from visiontune.data.targets import LabelMap, objects

COLOURS = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)
BOXES = torch.tensor([[20, 10, 60, 30], [70, 20, 90, 50], [10, 40, 45, 55]])  # x1, y1, x2, y2


def rectangles(height: int = 60, width: int = 100) -> tuple[tv_tensors.Image, dict]:
    """Three rectangles, each of another primary colour, on dark grey; the targets of six tasks.

    `labels` has 1, 2, 3 on them and 0 elsewhere; `depth` the same as real numbers; `clean` is the image itself.
    """
    pixels = torch.full((3, height, width), 40, dtype=torch.uint8)
    labels = torch.zeros(height, width, dtype=torch.uint8)
    for i, (left, top, right, bottom) in enumerate(BOXES.tolist()):
        pixels[:, top:bottom, left:right] = COLOURS[i][:, None, None]
        labels[top:bottom, left:right] = i + 1
    size, names = (height, width), [0, 1, 2]
    masks = labels == torch.arange(1, 4)[:, None, None]
    targets = {
        "detection": objects(BOXES.float(), names, size, crowd=[False, True, False]),
        "instances": objects(BOXES.float(), names, size, masks=masks),
        "segmentation": LabelMap(labels),
        "clean": tv_tensors.Image(pixels.clone()),
        "depth": tv_tensors.Image(labels[None].float()),
        "classification": 4,
        "nothing": None,
    }
    return tv_tensors.Image(pixels), targets


ALL_KINDS = [KINDS[name] for name in ("detection", "instances", "segmentation", "dense", "classification")]


def shown(image: Tensor, label: int) -> Tensor:
    """``(H, W)`` bool, where the rectangle of a label has most of its colour."""
    grey = image if image.dtype == torch.uint8 else image * 255
    return (grey[label] > 127) & (grey.sum(0) < 400)


def extent(mask: Tensor) -> list[int]:
    """x1, y1, x2, y2 of what is true."""
    ys, xs = torch.where(mask)
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


def iou(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())
