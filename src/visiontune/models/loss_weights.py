"""The weighted sum of the losses of several tasks."""

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from visiontune.errors import UserError


class FixedWeights(nn.Module):
    """The sum with fixed factors, 1 by default.

    Raises:
        UserError: a factor for a task without a head.
    """

    def __init__(self, tasks: Iterable[str], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict.fromkeys(tasks, 1.0)
        if unknown := sorted(set(weights) - set(self.weights)):
            raise UserError(f"loss_weights.{unknown[0]}: unknown head; write one of {', '.join(self.weights)}")
        self.weights |= {task: float(weight) for task, weight in weights.items()}

    def forward(self, losses: Mapping[str, Tensor], labelled: Collection[str]) -> Tensor:
        """The weighted sum of scalar losses by task; a task without labels in the batch has a loss of 0."""
        return torch.stack([self.weights[task] * loss for task, loss in losses.items()]).sum()

    def factors(self) -> dict[str, float]:
        return dict(self.weights)


class LearnedWeights(nn.Module):
    """The sum with factors 1 / learned variance (Kendall et al. 2018, https://arxiv.org/abs/1705.07115).

    It is the sum of ``exp(-s) * loss + s`` with one ``s`` per task, learned from 0 with all other parameters: a task
    whose loss stays large gets a smaller factor.
    """

    def __init__(self, tasks: Iterable[str]) -> None:
        super().__init__()
        self.log_variance = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in tasks})

    def forward(self, losses: Mapping[str, Tensor], labelled: Collection[str]) -> Tensor:
        """As `FixedWeights.forward`; the variance of a task without labels in the batch gets a gradient of 0."""
        s = self.log_variance
        terms = [torch.exp(-s[task]) * loss + s[task] * (task in labelled) for task, loss in losses.items()]
        return torch.stack(terms).sum()

    def factors(self) -> dict[str, float]:
        return {task: float(torch.exp(-value.detach())) for task, value in self.log_variance.items()}


def build_loss_weights(
    tasks: Iterable[str], weights: Mapping[str, float] | str | None
) -> FixedWeights | LearnedWeights:
    """Build the sum that `loss_weights` of the config names: a factor by task, or "learned".

    Raises:
        UserError: another text than "learned", or a factor for a task without a head.
    """
    if isinstance(weights, str):
        if weights != "learned":
            raise UserError(f"loss_weights={weights}: write learned, or factors such as +loss_weights.detection=2")
        return LearnedWeights(tasks)
    return FixedWeights(tasks, weights or {})
