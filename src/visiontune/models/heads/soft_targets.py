"""Distances to the probabilities of a teacher, for heads with logits."""

from torch import Tensor
from torch.nn import functional as F


def kl_distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's class probabilities to the student's, both softened, times T^2.

    Args:
        logits, teacher_logits: ``(B, C, ...)``; the result is the mean over all dimensions except the classes.
        temperature: T, above 0. T^2 keeps gradients as large as without softening (Hinton, Vinyals & Dean 2015,
            https://arxiv.org/abs/1503.02531).
    """
    student, teacher = (F.log_softmax(values.float() / temperature, 1) for values in (logits, teacher_logits))
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    return divergence.sum() / max(1, divergence.numel()) * temperature**2  # 0 for empty logits


def binary_distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """As `kl_distillation_loss`, for independent labels with a probability each; the mean over the labels."""
    student, teacher = logits.float() / temperature, teacher_logits.float() / temperature
    target = teacher.sigmoid()
    cross, entropy = (F.binary_cross_entropy_with_logits(values, target) for values in (student, teacher))
    return (cross - entropy) * temperature**2
