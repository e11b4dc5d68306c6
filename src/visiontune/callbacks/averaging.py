"""An exponential average of the weights, which is what is validated, kept and used."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from visiontune.errors import UserError
from visiontune.strategies.freezing import average_batchnorm


class WeightAverage(WeightAveraging):
    """Averages weights over the last part of the training (Polyak & Juditsky 1992; Morales-Brotons et al. 2024).

    Validation scores of single epochs jump by several points on a small split, and the best of them is then often a
    lucky one; those of the average do not, so that the best epoch is a good one. The window follows the length of the
    training, and is short at its start.

    Args:
        horizon: fraction of all steps, 0..1, over which the average forgets (the decay is 1 - 1 / (horizon * steps)).

    Raises:
        UserError: another fraction.
    """

    def __init__(self, horizon: float = 0.1) -> None:
        super().__init__(multi_avg_fn=self._average)
        if not isinstance(horizon, int | float) or not 0 < horizon <= 1:
            raise UserError(
                f"callbacks.weight_average.horizon={horizon}: a fraction of all steps, such as "
                "callbacks.weight_average.horizon=0.1"
            )
        self.horizon = horizon
        self.steps = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.steps = float(trainer.estimated_stepping_batches)
        if trainer.ckpt_path is None:  # the copy made at set-up is older than the probe's solution
            assert self._average_model is not None
            self._average_model.module.load_state_dict(pl_module.state_dict())

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._average_model is not None:
            average_batchnorm(trainer, self._average_model)
        super().on_validation_epoch_start(trainer, pl_module)

    @torch.no_grad()
    def _average(self, averages: Any, current: Any, count: Any) -> None:
        """One step for tensors of one type; `count` steps were averaged before."""
        tensors: tuple[list[Tensor], list[Tensor]] = (list(averages), list(current))
        if not tensors[0][0].is_floating_point():  # counters
            for average, value in zip(*tensors, strict=True):
                average.copy_(value)
            return
        torch._foreach_lerp_(*tensors, weight=self.share(int(count)))

    def share(self, count: int) -> float:
        """Of the newest weights in the average, where `count` steps were averaged before."""
        return 1 - min(1 - 1 / max(1.0, self.horizon * self.steps), (1 + count) / (10 + count))


class StochasticWeightAverage(WeightAverage):
    """The plain mean over the last part of the training (SWA, Izmailov et al. 2018, https://arxiv.org/abs/1803.05407).

    It wants a learning rate that stays high: `scheduler=constant`. BatchNorm's statistics are averaged as well.

    Args:
        horizon: fraction of all steps, 0..1, that are averaged; before, the weights are as they are.
    """

    def share(self, count: int) -> float:
        return 1 / max(1.0, count + 1 - (1 - self.horizon) * self.steps)
