"""Learning rates and gradients, stage by stage."""

import math
from collections import defaultdict
from typing import Any

import lightning as L
import torch

from visiontune.strategies.base import NO_DECAY


class StepCurves(L.Callback):
    """Logs `lr/STAGE` and `gradient_norm/STAGE` of what trains, every `trainer.log_every_n_steps` steps.

    The rate is the one that the step is taken with: the schedule's, times an unfrozen stage's warm-up and Auto-RGN's
    factor. The gradient is what the optimizer gets, of the whole window and all ranks, before clipping; of SAM's two it
    is the one at the weights themselves. To come after the callbacks that change either.
    """

    def __init__(self) -> None:
        self.logged = -1

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Any, pl_module: L.LightningModule, optimizer: Any) -> None:
        step, every = trainer.global_step, trainer.log_every_n_steps
        if not (every and trainer.loggers and trainer.is_global_zero) or (step + 1) % every or step == self.logged:
            return
        self.logged = step  # SAM comes twice
        moved = [(g, p.grad) for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        if not moved:
            return
        squares: dict[str, float] = defaultdict(float)
        norms = torch.stack(torch._foreach_norm([gradient for _, gradient in moved])).tolist()
        for (group, _), norm in zip(moved, norms, strict=True):
            squares[group["stage"]] += norm**2
        values = {f"lr/{group['name'].removesuffix(NO_DECAY)}": group["lr"] for group, _ in moved}
        values |= {f"gradient_norm/{stage}": math.sqrt(square) for stage, square in squares.items()}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
