"""Overlaps of boxes; select boxes and paste their masks, with operations that can be exported."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_iou, nms

PAIRS = 2**22  # in one part of `iou_in_parts`


def iou_in_parts(boxes: Tensor, anchors: Tensor) -> Tensor:
    """torchvision's `box_iou` ``(N, M)``, bit for bit, with less memory.

    torchvision holds several tensors that are twice as large as the result: 4 GB for 500 boxes and the anchors of an
    image of 640 x 640 pixels.
    """
    rows = max(1, PAIRS // max(1, len(anchors)))
    if len(boxes) <= rows:
        return box_iou(boxes, anchors)
    overlaps = boxes.new_empty(len(boxes), len(anchors))
    for part, result in zip(boxes.split(rows), overlaps.split(rows), strict=True):
        result.copy_(box_iou(part, anchors))
    return overlaps


def select_boxes(
    boxes: Tensor, scores: Tensor, groups: Tensor, overlap: float, count: int, size: tuple[int, int]
) -> Tensor:
    """Non-maximum suppression within each group.

    Args:
        boxes: ``(N, 4)`` inside an image of `size` (H, W); `scores` and `groups` are ``(N,)``.
        overlap: intersection over union, 0..1; of two boxes that overlap by more, the lower score is dropped.

    Returns:
        ``(count,)`` indices of the best boxes, best first, padded with -1.
    """
    if torch.compiler.is_exporting():  # torchvision's `batched_nms` depends on the number of boxes
        offsets = groups.to(boxes)[:, None] * (max(size) + 1)
        rows = nms(boxes + offsets, scores, overlap)
    else:
        rows = batched_nms(boxes, scores, groups, overlap)
    return torch.cat([rows, rows.new_full((count,), -1)])[:count]


def topk_per_level(scores: Tensor, counts: list[int], k: int) -> Tensor:
    """Indices of the `k` highest scores of each level.

    Args:
        scores: ``(N,)``, level after level.
        counts: number of scores of each level.
    """
    rows, start = [], 0
    for count in counts:
        rows.append(scores[start : start + count].topk(min(k, count)).indices + start)
        start += count
    return torch.cat(rows)


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks ``(N, h, w)`` over their boxes ``(N, 4)``, 0..1 -> ``(N, H, W)`` over an image of `size`, bilinear.

    It computes the same numbers as torchvision's `paste_masks_in_image`, which rounds the corners of boxes to pixels.
    """
    padded = F.pad(masks, (1, 1, 1, 1))
    middle, half = (boxes[:, :2] + boxes[:, 2:]) * 0.5, (boxes[:, 2:] - boxes[:, :2]) * 0.5
    half = half * (padded.shape[-1] / masks.shape[-1])
    first, last = (middle - half).long(), (middle + half).long()
    extent = (last - first + 1).clamp_min(1)
    rows = _weights(first[:, 1], extent[:, 1], size[0], padded.shape[-2])
    columns = _weights(first[:, 0], extent[:, 0], size[1], padded.shape[-1])
    return rows @ padded @ columns.transpose(1, 2)


def _weights(first: Tensor, extent: Tensor, pixels: int, cells: int) -> Tensor:
    """``(N, pixels, cells)``: weight of each cell in each pixel; 0 before `first` and from `first + extent` on."""
    offset = torch.arange(pixels, device=first.device) - first[:, None]
    source = ((offset + 0.5) * (cells / extent[:, None]) - 0.5).clamp(0, cells - 1)
    weights = 1 - (source[..., None] - torch.arange(cells, device=first.device)).abs()
    inside = (offset >= 0) & (offset < extent[:, None])
    return weights.clamp_min(0) * inside[..., None]
