"""Losses of label maps, one value per image.

Each takes logits ``(B, C, H, W)`` and classes ``(B, H, W)`` int64 (`IGNORE` where there is no truth), and returns
``(B,)``. An image without truth has a loss of 0, on the graph.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from visiontune.data.targets import IGNORE


def cross_entropy(
    logits: Tensor, target: Tensor, weights: Tensor | None = None, smoothing: float = 0.0, gamma: float = 0.0
) -> Tensor:
    """Mean over an image's pixels, weighted by class as `F.cross_entropy` does.

    Args:
        weights: ``(C,)``.
        gamma: exponent of the focal loss (Lin et al. 2017, https://arxiv.org/abs/1708.02002); 0 for cross-entropy.
    """
    known = target != IGNORE
    loss = F.cross_entropy(logits, target, weights, ignore_index=IGNORE, reduction="none", label_smoothing=smoothing)
    safe = target.masked_fill(~known, 0)
    if gamma:
        loss = loss * (1 - logits.softmax(1).gather(1, safe[:, None])[:, 0]) ** gamma
    weight = known if weights is None else weights[safe] * known
    return loss.sum((1, 2)) / weight.sum((1, 2)).clamp_min(1e-12)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, mean over the classes that occur in the image's truth.

    Milletari et al. 2016 (https://arxiv.org/abs/1606.04797) with plain sums in the denominator, as in nnU-Net. Every
    class of an image counts the same, however few pixels it has, so that thin classes are learned too. A class that
    does not occur has no coefficient; predicting it lowers the coefficients of the other classes.
    """
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    truth = target[:, None] == classes
    probabilities = logits.softmax(1) * (target != IGNORE)[:, None]
    both, size = (probabilities * truth).sum((2, 3)), truth.sum((2, 3))
    occurs = size > 0
    losses = 1 - 2 * both / (probabilities.sum((2, 3)) + size).clamp_min(1e-12)
    return (losses * occurs).sum(1) / occurs.sum(1).clamp_min(1)
