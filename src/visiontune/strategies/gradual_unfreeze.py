"""Stages unfreeze from the head down."""

import math
from collections.abc import Mapping
from typing import Any

from visiontune.errors import UserError
from visiontune.strategies.base import HEADS, Strategy, is_number


class GradualUnfreeze(Strategy):
    """Gradual unfreezing with discriminative learning rates (ULMFiT, Howard & Ruder 2018,
    https://arxiv.org/abs/1801.06146).

    Args:
        stages, epochs, lr_decay, batchnorm: as in `Strategy`.
        head_epochs: number of epochs at the start in which only the heads train.
        unfrozen_by: fraction of all epochs, 0..1, after which the last stage has unfrozen.
        schedule: replaces `head_epochs` and `unfrozen_by`: the epoch (from 0) from which each named stage trains;
            stages that it does not name stay frozen.
        patience: replaces all three: the next stage unfreezes when the monitored metric has not improved for this many
            epochs, counted from the last unfreezing.
        warmup_epochs: number of epochs in which the learning rate of a newly unfrozen stage rises from 0. Adam's first
            steps move every weight by the full learning rate, however small its gradient, which would destroy the
            pretrained features.

    Raises:
        UserError: `warmup_epochs` is negative; `head_epochs` leaves no epoch for the backbone; `unfrozen_by` is not in
            0..1; `schedule` has an unknown stage, an epoch after the end, or nothing that trains in epoch 0;
            `patience` is below 1, at least `epochs`, or used together with a schedule.
    """

    def __init__(
        self,
        stages: list[str],
        epochs: int,
        head_epochs: int = 1,
        unfrozen_by: float = 0.5,
        schedule: Mapping[str, int] | None = None,
        patience: int | None = None,
        lr_decay: float = 0.8,
        warmup_epochs: float = 1.0,
        batchnorm: str = "frozen",
    ) -> None:
        super().__init__(stages, epochs, lr_decay, batchnorm)
        if not is_number(warmup_epochs) or warmup_epochs < 0:
            raise UserError(f"strategy.warmup_epochs={warmup_epochs}: write a number, 0 (none) or more")
        self.warmup_epochs, self.patience = warmup_epochs, patience
        # Best score so far; epoch of that score or of the last unfreezing, whichever is later.
        self.best, self.since = -math.inf, 0
        if patience is not None:
            _check_patience(patience, epochs, schedule)
            self.starts = {HEADS: 0}
        elif schedule is None:
            self.starts = _spread(stages, epochs, head_epochs, unfrozen_by)
        else:
            _check_schedule(schedule, stages, epochs)
            self.starts = {HEADS: 0} | dict(schedule)

    def trainable(self, epoch: int) -> set[str]:
        return {name for name, start in self.starts.items() if epoch >= start}

    def observe(self, epochs: int, score: float) -> list[str]:
        if self.patience is None:
            return []
        if score > self.best:
            self.best, self.since = score, epochs
        frozen = [name for name in self.stages if name not in self.starts]
        if not frozen or epochs - self.since < self.patience:
            return []
        self.starts[frozen[-1]] = self.since = epochs
        return frozen[-1:]

    def when(self, stage: str) -> str | None:
        if self.patience is None or stage in self.starts:
            return None
        earliest = self.patience * self.stages[::-1].index(stage)
        return f"{earliest + 1} at the earliest" if earliest < self.epochs else "never"

    def state_dict(self) -> dict[str, Any]:
        return {} if self.patience is None else {"starts": dict(self.starts), "best": self.best, "since": self.since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.patience is not None:
            self.starts, self.best, self.since = dict(state["starts"]), state["best"], state["since"]

    def warmup(self, stage: str, epoch: float) -> float:
        start = self.starts.get(stage, 0)
        if start == 0 or self.warmup_epochs == 0:  # the scheduler warms up stages that train from the start
            return 1.0
        return min(1.0, max(0.0, (epoch - start) / self.warmup_epochs))


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def _check_schedule(schedule: Mapping[str, int], stages: list[str], epochs: int) -> None:
    unknown = sorted(set(schedule) - set(stages))
    if unknown:
        raise UserError(
            f"strategy.schedule names stage {unknown[0]!r}, which this backbone lacks: its stages are "
            f"{', '.join(stages)}"
        )
    for name, epoch in schedule.items():
        if not _is_count(epoch):
            raise UserError(f"strategy.schedule unfreezes {name} at epoch {epoch}: write a whole number, 0 or more")
    for name, epoch in schedule.items():
        if epoch >= epochs:
            raise UserError(
                f"strategy.schedule unfreezes {name} at epoch {epoch}, but the epochs are 0 to {epochs - 1}: "
                f"write a smaller number, or trainer.max_epochs={max(schedule.values()) + 1}"
            )
    if schedule.get(HEADS) and min(schedule.values()) > 0:
        raise UserError(
            "strategy.schedule freezes everything in epoch 0: leave heads out of it, and they train from epoch 0"
        )


def _check_patience(patience: int, epochs: int, schedule: Mapping[str, int] | None) -> None:
    if schedule is not None:
        raise UserError("strategy.schedule and strategy.patience both set when stages unfreeze: leave one of them null")
    if isinstance(patience, bool) or not isinstance(patience, int) or not 1 <= patience < epochs:
        raise UserError(
            f"strategy.patience={patience}: a number of epochs from 1 to {epochs - 1} (the training has {epochs}), "
            "such as strategy.patience=2; or null, to unfreeze by epochs"
        )


def _spread(stages: list[str], epochs: int, head_epochs: int, unfrozen_by: float) -> dict[str, int]:
    """The epoch from which each stage trains, evenly from `head_epochs` to `unfrozen_by * epochs`."""
    # A training of one epoch (debug=fast) is allowed to train the heads only.
    if not _is_count(head_epochs) or head_epochs >= max(2, epochs):
        raise UserError(
            f"strategy.head_epochs={head_epochs}: the training has {epochs} epochs, and the backbone would never "
            "train; write a smaller number, such as strategy.head_epochs=1"
        )
    if not is_number(unfrozen_by) or not 0 <= unfrozen_by <= 1:
        raise UserError(f"strategy.unfrozen_by={unfrozen_by}: a share of all epochs, such as strategy.unfrozen_by=0.5")
    backbone = [name for name in reversed(stages) if name != HEADS]
    last = max(head_epochs, min(epochs - 1, round(unfrozen_by * epochs)))
    steps = max(1, len(backbone) - 1)
    return {HEADS: 0} | {name: head_epochs + (last - head_epochs) * i // steps for i, name in enumerate(backbone)}
