"""Learning rate schedules whose length nobody has to compute; each gives Lightning's scheduler configuration.

All but `plateau` are functions of the optimizer step, multiply every group's own rate by the same factor, and begin
with a linear warm-up over a fraction of all steps.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

from visiontune.errors import UserError

Config = dict[str, Any]


def _fraction(key: str, value: Any, example: str, zero: bool = True) -> None:
    """Raises UserError outside 0..1, and at 1."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not 0 <= value < 1 or (value == 0 and not zero):
        least = "from" if zero else "above"
        raise UserError(f"scheduler.{key}={value}: a fraction, {least} 0 and below 1, such as {example}")


def _by_step(optimizer: Optimizer, steps: int, warmup: float, factor: Callable[[float], float]) -> Config:
    """`factor` maps the fraction of the steps after warm-up that is done, 0..1, to a multiple of the peak rate."""
    _fraction("warmup", warmup, "scheduler.warmup=0.1")
    rising = round(warmup * steps)

    def rate(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return factor(min(1.0, (step - rising) / max(1, steps - rising)))

    return {"scheduler": LambdaLR(optimizer, rate), "interval": "step"}


def constant(optimizer: Optimizer, steps: int, monitor: tuple[str, str], warmup: float = 0.0) -> Config:
    """The peak rate after warm-up."""
    return _by_step(optimizer, steps, warmup, lambda done: 1.0)


def cosine(
    optimizer: Optimizer, steps: int, monitor: tuple[str, str], warmup: float = 0.1, final: float = 0.0
) -> Config:
    """Half a cosine from the peak rate to `final` times it (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    return _by_step(optimizer, steps, warmup, lambda done: final + (1 - final) * (1 + math.cos(math.pi * done)) / 2)


def linear(
    optimizer: Optimizer, steps: int, monitor: tuple[str, str], warmup: float = 0.1, final: float = 0.0
) -> Config:
    """A straight line from the peak rate to `final` times it."""
    return _by_step(optimizer, steps, warmup, lambda done: 1 - (1 - final) * done)


def exponential(
    optimizer: Optimizer, steps: int, monitor: tuple[str, str], warmup: float = 0.1, final: float = 0.01
) -> Config:
    """The same factor every step, so that `final` times the peak rate is left at the end; `final` > 0."""
    _fraction("final", final, "scheduler.final=0.01", zero=False)
    return _by_step(optimizer, steps, warmup, lambda done: final**done)


def step(
    optimizer: Optimizer,
    steps: int,
    monitor: tuple[str, str],
    warmup: float = 0.1,
    milestones: Sequence[float] = (0.6, 0.85),
    gamma: float = 0.1,
) -> Config:
    """Multiplied by `gamma` at each of the `milestones`, fractions of the steps after warm-up."""
    for milestone in milestones:
        _fraction("milestones", milestone, "scheduler.milestones=[0.6,0.85]")
    return _by_step(optimizer, steps, warmup, lambda done: gamma ** sum(done >= m for m in milestones))


class _OneCycle(OneCycleLR):
    """With the length of the training as it is now: a run that goes on may have been asked for more epochs."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        length = {"total_steps", "_schedule_phases"}
        super().load_state_dict({key: value for key, value in state_dict.items() if key not in length})


def one_cycle(
    optimizer: Optimizer,
    steps: int,
    monitor: tuple[str, str],
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Config:
    """torch's OneCycleLR (Smith 2018, arXiv:1708.07120), each group up to its own rate, momentum against it."""
    scheduler = _OneCycle(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=max(2, steps),
        pct_start=pct_start,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
    )
    return {"scheduler": scheduler, "interval": "step"}


def plateau(
    optimizer: Optimizer, steps: int, monitor: tuple[str, str], factor: float = 0.2, patience: int = 3
) -> Config:
    """torch's ReduceLROnPlateau on the monitored metric, in the direction that the head says is better."""
    name, mode = monitor
    scheduler = ReduceLROnPlateau(optimizer, mode=mode, factor=factor, patience=patience)  # type: ignore[arg-type]
    return {"scheduler": scheduler, "interval": "epoch", "monitor": name}
