"""Learning rates that follow the gradients."""

import math
from typing import Any

import lightning as L
import torch

from visiontune.errors import UserError


class AutoRGN(L.Callback):
    """Scales each stage's learning rate by its relative gradient norm |g| / |w|, the largest of them to 1.

    Stages that the new data has most to say about move most (Auto-RGN, Lee et al. 2023,
    https://arxiv.org/abs/2210.11466).

    The norms are averaged over steps, since those of single batches jump.

    Args:
        momentum: of the average, 0..1.

    Raises:
        UserError: out of range.
    """

    def __init__(self, momentum: float = 0.9) -> None:
        if not 0 <= momentum < 1:
            raise UserError(f"callbacks.auto_rgn.momentum={momentum}: from 0 up to, not including, 1")
        self.momentum = momentum
        self.norms: dict[str, float] = {}
        self.step: int | None = None  # that the rates were last scaled in

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if trainer.global_step == self.step:  # SAM's second pass: the rates of this step are scaled
            return
        self.step = trainer.global_step
        moved = [(group["stage"], p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not moved:
            return
        both = [[p.grad for _, p in moved], [p for _, p in moved]]
        gradients, weights = torch.stack([torch.stack(torch._foreach_norm(tensors)) for tensors in both]).tolist()
        squares: dict[str, list[float]] = {}
        for (stage, _), gradient, weight in zip(moved, gradients, weights, strict=True):
            parts = squares.setdefault(stage, [0.0, 0.0])
            parts[0] += gradient**2
            parts[1] += weight**2
        now = {stage: (gradient / max(weight, 1e-12)) ** 0.5 for stage, (gradient, weight) in squares.items()}
        if not all(map(math.isfinite, now.values())):
            return  # 16-mixed tries scales until the gradients fit; steps until then are not taken
        for stage, norm in now.items():
            self.norms[stage] = self.momentum * self.norms.get(stage, norm) + (1 - self.momentum) * norm
        largest = max(self.norms[stage] for stage in now)
        if largest > 0:
            for group in optimizer.param_groups:  # for this step alone: the FineTuner puts the schedule's rates back
                group["lr"] *= self.norms.get(group["stage"], largest) / largest

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self.norms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.norms = dict(state_dict["norms"])
