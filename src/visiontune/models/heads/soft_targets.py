"""Distances to what a teacher gave, where a head's numbers are logits."""

from torch import Tensor
from torch.nn import functional as F


def kl_distillation_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's class probabilities to the student's, both softened, times T^2.

    The mean over everything but the classes, of ``(B, C, ...)``. T^2 keeps gradients as large as without softening
    (Hinton, Vinyals & Dean 2015, https://arxiv.org/abs/1503.02531).
    """
    own, given = (F.log_softmax(values.float() / temperature, 1) for values in (logits, taught))
    apart = F.kl_div(own, given, reduction="none", log_target=True).sum(1)
    return apart.sum() / max(1, apart.numel()) * temperature**2  # there may be none


def labels_apart(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """As `kl_distillation_loss`, of labels that are there or not, each with a probability of its own: their mean."""
    own, given = logits.float() / temperature, (taught.float() / temperature).sigmoid()
    cross, entropy = (
        F.binary_cross_entropy_with_logits(values, given) for values in (own, taught.float() / temperature)
    )
    return (cross - entropy) * temperature**2
