"""How the losses of several tasks become one."""

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from visiontune.errors import UserError


class FixedWeights(nn.Module):
    """The weighted sum; 1 where a task is not named.

    Raises:
        UserError: a weight for a task that no head answers.
    """

    def __init__(self, tasks: Iterable[str], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict.fromkeys(tasks, 1.0)
        if unknown := sorted(set(weights) - set(self.weights)):
            raise UserError(
                f"loss_weights.{unknown[0]}: there is no such head; the heads are {', '.join(self.weights)}"
            )
        self.weights |= {task: float(weight) for task, weight in weights.items()}

    def forward(self, losses: Mapping[str, Tensor], labelled: Collection[str]) -> Tensor:
        """The total of losses by task, each a scalar; 0 is that of a task that is not `labelled` in the batch."""
        return torch.stack([self.weights[task] * loss for task, loss in losses.items()]).sum()

    def factors(self) -> dict[str, float]:
        return dict(self.weights)


class LearnedWeights(nn.Module):
    """Each task weighed by the inverse of a learned variance (Kendall et al. 2018, arXiv:1705.07115).

    The total is the sum of ``exp(-s) * loss + s`` with one ``s`` a task, learned from 0 with everything else: a task
    whose loss stays large counts for less.
    """

    def __init__(self, tasks: Iterable[str]) -> None:
        super().__init__()
        self.log_variance = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in tasks})

    def forward(self, losses: Mapping[str, Tensor], labelled: Collection[str]) -> Tensor:
        """As `FixedWeights.forward`; without a label nothing is learned of a task's variance either."""
        s = self.log_variance
        terms = [torch.exp(-s[task]) * loss + s[task] * (task in labelled) for task, loss in losses.items()]
        return torch.stack(terms).sum()

    def factors(self) -> dict[str, float]:
        return {task: float(torch.exp(-value.detach())) for task, value in self.log_variance.items()}


def build_loss_weights(
    tasks: Iterable[str], weights: Mapping[str, float] | str | None
) -> FixedWeights | LearnedWeights:
    """`loss_weights` of a config: a factor by task, or the word "learned".

    Raises:
        UserError: neither, or a factor for no head.
    """
    if isinstance(weights, str):
        if weights != "learned":
            raise UserError(f"loss_weights={weights}: write learned, or factors such as +loss_weights.detection=2")
        return LearnedWeights(tasks)
    return FixedWeights(tasks, weights or {})
