"""Choosing among boxes, and pasting their masks, by operations that an exported graph can hold."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, nms


def best(boxes: Tensor, scores: Tensor, groups: Tensor, overlap: float, most: int, size: tuple[int, int]) -> Tensor:
    """Which `most` boxes are left when of two in one group that overlap by more the better one stays.

    Args:
        boxes: ``(N, 4)`` inside an image of `size` (H, W); `scores` and `groups` are ``(N,)``.

    Returns:
        ``(most,)`` rows of them, best first; -1 where there are fewer.
    """
    if torch.compiler.is_exporting():  # torchvision's own asks how many there are
        apart = groups.to(boxes)[:, None] * (max(size) + 1)
        kept = nms(boxes + apart, scores, overlap)
    else:
        kept = batched_nms(boxes, scores, groups, overlap)
    return torch.cat([kept, kept.new_full((most,), -1)])[:most]


def highest(scores: Tensor, counts: list[int], most: int) -> Tensor:
    """Rows of the highest `most` scores of each level; ``(N,)`` scores, the levels' one after the other."""
    found, start = [], 0
    for count in counts:
        found.append(scores[start : start + count].topk(min(most, count)).indices + start)
        start += count
    return torch.cat(found)


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks ``(N, h, w)``, 0..1 over their boxes ``(N, 4)`` -> ``(N, H, W)`` over an image of `size`, bilinear.

    The same numbers as torchvision's `paste_masks_in_image`, of which the boxes' corners are whole pixels.
    """
    around = F.pad(masks, (1, 1, 1, 1))
    middle, half = (boxes[:, :2] + boxes[:, 2:]) * 0.5, (boxes[:, 2:] - boxes[:, :2]) * 0.5
    half = half * (around.shape[-1] / masks.shape[-1])
    first, last = (middle - half).long(), (middle + half).long()
    extent = (last - first + 1).clamp_min(1)
    rows = _weights(first[:, 1], extent[:, 1], size[0], around.shape[-2])
    columns = _weights(first[:, 0], extent[:, 0], size[1], around.shape[-1])
    return rows @ around @ columns.transpose(1, 2)


def _weights(first: Tensor, extent: Tensor, pixels: int, cells: int) -> Tensor:
    """``(N, pixels, cells)``: how much of each cell is in each pixel; nothing before `first` nor `extent` after it."""
    place = torch.arange(pixels, device=first.device) - first[:, None]
    source = ((place + 0.5) * (cells / extent[:, None]) - 0.5).clamp(0, cells - 1)
    near = 1 - (source[..., None] - torch.arange(cells, device=first.device)).abs()
    inside = (place >= 0) & (place < extent[:, None])
    return near.clamp_min(0) * inside[..., None]
