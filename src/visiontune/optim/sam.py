"""Sharpness-aware minimisation around any optimizer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Sam(Optimizer):
    """Takes steps with the gradient at the worst weights nearby (SAM, Foret et al. 2021, https://arxiv.org/abs/2010.01412).

    Each step needs two passes: the first finds the direction in which the loss rises most, the second computes the
    gradient there. State, parameter groups and checkpoints are those of the wrapped optimizer. `train/loss` is the mean
    of both passes.

    Args:
        base: the optimizer that takes the step.
        rho: L2 distance to the worst weights, above 0, over all parameters that have a gradient.
        statistics: BatchNorm's running statistics, which only the first pass updates.
    """

    def __init__(self, base: Optimizer, rho: float = 0.05, statistics: Sequence[Tensor] = ()) -> None:
        super().__init__(base.param_groups, base.defaults)
        self.base, self.rho, self.statistics = base, rho, list(statistics)
        self.param_groups, self.state = base.param_groups, base.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        assert closure is not None, "SAM needs the loss twice"
        with torch.enable_grad():
            loss = closure()
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in parameters]).norm() if parameters else torch.zeros(())
        tensors = [*parameters, *self.statistics]
        before = [tensor.detach().clone() for tensor in tensors]
        for p in parameters:
            p.add_(p.grad, alpha=float(self.rho / (norm + 1e-12)))
        with torch.enable_grad():
            closure()
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
        self.base.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self.param_groups, self.state = self.base.param_groups, self.base.state
