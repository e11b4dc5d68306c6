"""Averages of the weights, which are validated, saved and used instead of the last weights."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from visiontune.callbacks.nonfinite import NonFinite
from visiontune.strategies.freezing import average_batchnorm


class WeightAverage(WeightAveraging):
    """Averages weights over the last part of the training (Polyak & Juditsky 1992; Morales-Brotons et al. 2024).

    On a small validation split the scores of single epochs are noisy, and the best epoch is often luck; the scores of
    the average are smoother. The average remembers few steps at the start of the training.

    Args:
        horizon: fraction of all steps, above 0 and at most 1, that the average remembers: its decay is
            1 - 1 / (horizon * steps).
    """

    def __init__(self, horizon: float = 0.1) -> None:
        super().__init__(multi_avg_fn=self._average)
        self.horizon = horizon
        self.steps = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.steps = float(trainer.estimated_stepping_batches)
        if trainer.ckpt_path is None:  # the copy was made in setup, before the heads were initialized
            assert self._average_model is not None
            self._average_model.module.load_state_dict(pl_module.state_dict())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(c, NonFinite) and c.skipped_step == trainer.global_step - 1 for c in callbacks):
            self._latest_update_step = trainer.global_step  # a skipped step is not averaged
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._average_model is not None:
            average_batchnorm(trainer, self._average_model)
        super().on_validation_epoch_start(trainer, pl_module)

    @torch.no_grad()
    def _average(self, averages: Any, current: Any, count: Any) -> None:
        """Update averages of one dtype after `count` earlier steps."""
        tensors: tuple[list[Tensor], list[Tensor]] = (list(averages), list(current))
        if not tensors[0][0].is_floating_point():  # counters
            for average, value in zip(*tensors, strict=True):
                average.copy_(value)
            return
        torch._foreach_lerp_(*tensors, weight=self.share(int(count)))

    def share(self, count: int) -> float:
        """Share of the newest weights in the average after `count` earlier steps."""
        return 1 - min(1 - 1 / max(1.0, self.horizon * self.steps), (1 + count) / (10 + count))


class StochasticWeightAverage(WeightAverage):
    """The plain mean over the last part of the training (SWA, Izmailov et al. 2018, https://arxiv.org/abs/1803.05407).

    It needs a learning rate that stays high: `scheduler=constant`. BatchNorm statistics are averaged as well.

    Args:
        horizon: fraction of all steps, above 0 and at most 1, at the end of the training, that are averaged. Before
            them the average equals the current weights.
    """

    def share(self, count: int) -> float:
        return 1 / max(1.0, count + 1 - (1 - self.horizon) * self.steps)
