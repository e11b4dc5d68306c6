"""The learning-rate range test (Smith 2017, https://arxiv.org/abs/1506.01186)."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
from matplotlib.figure import Figure
from omegaconf import DictConfig

from visiontune.callbacks import ProbeInitialization
from visiontune.config.derive import derive
from visiontune.errors import UserError
from visiontune.models.heads.drawing import save_figure
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_atomically
from visiontune.runs.log import logging_to
from visiontune.strategies import Stages, Strategy
from visiontune.training.fit import prepare
from visiontune.training.short_trainer import build_short_trainer

STEPS, LOWEST, HIGHEST = 100, 1e-6, 1.0
SMOOTHING = 0.9  # weight of the earlier steps in the exponential mean
MIN_LOSSES = 10  # the mean of fewer losses is too noisy
DIVERGED = 3.0  # stop when the loss is this many times the lowest loss


class NoLossFell(UserError):
    """The loss fell at no learning rate."""


@dataclass(frozen=True)
class RangeTest:
    """Learning rates of the heads, the smoothed training loss at each, and the learning rate to train with."""

    lrs: list[float]
    losses: list[float]
    lr: float

    def write(self, run: RunDirectory) -> None:
        """Write `report/lr_range.png` and `report/lr_range.csv`."""
        with write_atomically(run.report / "lr_range.csv") as file:
            writer = csv.writer(file)
            writer.writerow(["lr", "loss"])
            writer.writerows(zip(self.lrs, self.losses, strict=True))
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.lrs, self.losses)
        axes.axvline(self.lr, color="tab:orange", label=f"chosen: {self.lr:.1e}")
        axes.set(xscale="log", xlabel="learning rate of the heads", ylabel="training loss, smoothed")
        axes.legend()
        save_figure(figure, run.report / "lr_range.png", dpi=120)


def range_test(cfg: DictConfig) -> RangeTest:
    """Train the run's initial model for `STEPS` steps, with a learning rate that rises from `LOWEST` to `HIGHEST`.

    All stages train that the strategy trains in its last epoch or may unfreeze by scores. Each stage keeps its fraction
    of the learning rate.

    Raises:
        NoLossFell: the loss falls at no learning rate.
    """
    constant = {"_target_": "visiontune.optim.schedulers.constant", "_partial_": True}
    # With optimizer.lr=1, the learning rate of a group equals its fraction.
    cfg = derive(cfg, {"optimizer.lr": 1.0, "scheduler": constant, "frozen_features.cache": "none"})
    with logging_to(None, quiet=True):
        data, model, _ = prepare(cfg)
        model.strategy = LastEpoch(model.strategy)
        rising_lr = _RisingLr()
        callbacks = [*([ProbeInitialization()] if cfg.probe else []), rising_lr]
        trainer = build_short_trainer(cfg, callbacks, max_epochs=-1, max_steps=STEPS, limit_val_batches=0)
        trainer.fit(model, datamodule=data)
    losses = smooth(rising_lr.losses)
    return RangeTest(rising_lr.lrs[: len(losses)], losses, choose_lr(rising_lr.lrs, losses))


class LastEpoch(Strategy):
    """Trains in every epoch the stages that another strategy trains in its last epoch or may unfreeze by scores."""

    def __init__(self, strategy: Strategy) -> None:
        super().__init__(strategy.stages, strategy.epochs, batchnorm=strategy.batchnorm)
        self.strategy, self.trains_parameter = strategy, strategy.trains_parameter  # type: ignore[method-assign]
        self.trains_head_parameter = strategy.trains_head_parameter  # type: ignore[method-assign]

    def param_groups(self, stages: Stages, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        return self.strategy.param_groups(stages, lr, weight_decay)

    def trainable(self, epoch: int) -> set[str]:
        by_scores = {stage for stage in self.stages if self.strategy.when(stage)}
        return self.strategy.trainable(self.epochs - 1) | by_scores


class _RisingLr(L.Callback):
    """Raises the learning rate from step to step, and stops when the loss has diverged."""

    def __init__(self) -> None:
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.fractions: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        groups = trainer.optimizers[0].param_groups
        self.fractions = self.fractions or [group["lr"] for group in groups]
        lr = LOWEST * (HIGHEST / LOWEST) ** (trainer.global_step / (STEPS - 1))
        for group, fraction in zip(groups, self.fractions, strict=True):
            group["lr"] = fraction * lr
        self.lrs.append(lr)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss_step"]))
        means = smooth(self.losses)
        trainer.should_stop = len(means) < len(self.losses) or means[-1] > DIVERGED * min(means)


def smooth(losses: Sequence[float]) -> list[float]:
    """Bias-corrected exponential means, up to the first loss that is not finite."""
    means: list[float] = []
    total = 0.0
    for count, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            break
        total = SMOOTHING * total + (1 - SMOOTHING) * loss
        means.append(total / (1 - SMOOTHING**count))
    return means


def choose_lr(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """The highest learning rate at which the loss still fell: Smith's upper bound, the peak of a cosine schedule.

    Raises:
        NoLossFell: the loss fell at no learning rate.
    """
    lowest = min(range(MIN_LOSSES, len(losses)), key=losses.__getitem__, default=MIN_LOSSES)
    if lowest == MIN_LOSSES:
        raise NoLossFell("the loss fell at no learning rate from 1e-6 to 1: write optimizer.lr=5e-4 or another number")
    return lrs[lowest]
