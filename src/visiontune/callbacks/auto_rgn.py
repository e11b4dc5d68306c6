"""Learning rates by relative gradient norms."""

import math
from typing import Any

import lightning as L
import torch

from visiontune.errors import UserError


class AutoRGN(L.Callback):
    """Scales each stage's learning rate by its relative gradient norm |g| / |w|, divided by the largest of all stages.

    Stages that fit the new data worst move most (Auto-RGN, Lee et al. 2023, https://arxiv.org/abs/2210.11466). The
    norms are averaged over steps, because those of single batches are noisy.

    Args:
        momentum: of the average, 0 or more and below 1.

    Raises:
        UserError: `momentum` is out of range.
    """

    def __init__(self, momentum: float = 0.9) -> None:
        if not 0 <= momentum < 1:
            raise UserError(
                f"technique.auto_rgn.momentum={momentum}: expected 0 or more and below 1; write "
                "technique.auto_rgn.momentum=0.9"
            )
        self.momentum = momentum
        self.norms: dict[str, float] = {}
        self.step: int | None = None  # the last step whose learning rates were scaled

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.global_step == self.step:  # the second pass of SAM: this step is scaled already
            return
        self.step = trainer.global_step
        parameters = [
            (group["stage"], p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        if not parameters:
            return
        both = [[p.grad for _, p in parameters], [p for _, p in parameters]]
        gradients, weights = torch.stack([torch.stack(torch._foreach_norm(tensors)) for tensors in both]).tolist()
        squares: dict[str, list[float]] = {}
        for (stage, _), gradient, weight in zip(parameters, gradients, weights, strict=True):
            sums = squares.setdefault(stage, [0.0, 0.0])
            sums[0] += gradient**2
            sums[1] += weight**2
        current = {stage: (gradient / max(weight, 1e-12)) ** 0.5 for stage, (gradient, weight) in squares.items()}
        if not all(map(math.isfinite, current.values())):
            return  # 16-mixed skips such steps until its loss scale fits
        for stage, norm in current.items():
            self.norms[stage] = self.momentum * self.norms.get(stage, norm) + (1 - self.momentum) * norm
        largest = max(self.norms[stage] for stage in current)
        if largest > 0:
            for group in optimizer.param_groups:  # for this step only: the FineTuner restores the schedule's values
                group["lr"] *= self.norms.get(group["stage"], largest) / largest

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self.norms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.norms = dict(state_dict["norms"])
