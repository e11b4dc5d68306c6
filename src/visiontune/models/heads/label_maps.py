"""From logits to label maps in pixels of the original image."""

import math

import torch
from torch import Tensor

from visiontune.data.frames import Frame

CHUNK = 2**26  # number of logits (256 MB) to resize to an image at once


def argmax_map(logits: Tensor, frame: Frame, chunk: int = CHUNK) -> Tensor:
    """Argmax ``(H, W)`` uint8 in the image's pixels of ``(C, h, w)`` logits, some classes at a time.

    Args:
        chunk: number of values to resize at once (at least one class).
    """
    size = max(1, chunk // math.prod(frame.size))
    first, *rest = range(0, len(logits), size)
    best, labels = frame.pixels(logits[first : first + size]).max(0)
    for start in rest:
        value, label = frame.pixels(logits[start : start + size]).max(0)
        better = value > best
        best = torch.where(better, value, best)
        labels = torch.where(better, label + start, labels)
    return labels.to(torch.uint8)


def mean_confidence(logits: Tensor, frame: Frame) -> Tensor:
    """Mean probability of the most probable class over the part of the input that shows the image.

    Args:
        logits: ``(..., C, h, w)``.
    """
    inside = frame.remove_padding(logits)
    # The softmax of the largest logit, which is far faster than that of all logits.
    return (inside - inside.amax(-3, keepdim=True)).exp().sum(-3).reciprocal().mean((-2, -1))
