"""Learning rates that follow the gradients."""

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
        squares: dict[str, list[float]] = {}
        for group in optimizer.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if moved:
                parts = squares.setdefault(group["stage"], [0.0, 0.0])
                parts[0] += sum(float(p.grad.square().sum()) for p in moved)
                parts[1] += sum(float(p.square().sum()) for p in moved)
        for stage, (gradient, weight) in squares.items():
            norm = (gradient / max(weight, 1e-12)) ** 0.5
            self.norms[stage] = self.momentum * self.norms.get(stage, norm) + (1 - self.momentum) * norm
        largest = max((self.norms[stage] for stage in squares), default=0.0)
        if largest > 0:
            for group in optimizer.param_groups:  # for this step alone: the FineTuner puts the schedule's rates back
                group["lr"] *= self.norms.get(group["stage"], largest) / largest

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self.norms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.norms = dict(state_dict["norms"])
