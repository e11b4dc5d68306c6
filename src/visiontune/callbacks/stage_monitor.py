"""The learning rate and the gradient norm of each stage."""

import math
from collections import defaultdict
from typing import Any

import lightning as L
import torch

from visiontune.strategies.base import NO_DECAY


class StageMonitor(L.Callback):
    """Logs `lr/STAGE` and `gradient_norm/STAGE` of the stages that train, every `trainer.log_every_n_steps` steps.

    The learning rate is the one that the optimizer uses in this step: the schedule's, times the warm-up of an unfrozen
    stage and the factor of Auto-RGN. The gradient is the optimizer's before clipping, summed over the accumulated
    batches and averaged over the ranks. SAM computes two gradients; the first, at the current weights, is logged. Place
    this callback after all callbacks that change learning rates or gradients.
    """

    def __init__(self) -> None:
        self.logged_step = -1

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Any, pl_module: L.LightningModule, optimizer: Any) -> None:
        step, every = trainer.global_step, trainer.log_every_n_steps
        if not (every and trainer.loggers and trainer.is_global_zero) or (step + 1) % every or step == self.logged_step:
            return
        self.logged_step = step  # SAM calls this hook twice in a step
        gradients = [(g, p.grad) for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        if not gradients:
            return
        squares: dict[str, float] = defaultdict(float)
        norms = torch.stack(torch._foreach_norm([gradient for _, gradient in gradients])).tolist()
        for (group, _), norm in zip(gradients, norms, strict=True):
            squares[group["stage"]] += norm**2
        values = {f"lr/{group['name'].removesuffix(NO_DECAY)}": group["lr"] for group, _ in gradients}
        values |= {f"gradient_norm/{stage}": math.sqrt(square) for stage, square in squares.items()}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
