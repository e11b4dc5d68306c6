"""Learning rate schedules over the whole training; each returns Lightning's scheduler configuration.

All except `plateau` are functions of the optimizer step: they multiply the learning rate of every group by the same
factor. All except `plateau` and `one_cycle` start with a linear warm-up over a fraction of all steps.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

from visiontune.errors import UserError

Config = dict[str, Any]


def _check_fraction(key: str, value: Any, example: str, zero: bool = True) -> None:
    """Raise UserError unless 0 <= `value` < 1; 0 itself is refused if `zero` is False."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 1 or (value == 0 and not zero):
        least = "from" if zero else "above"
        raise UserError(f"scheduler.{key}={value}: a fraction, {least} 0 and below 1, such as {example}")


def _by_step(optimizer: Optimizer, steps: int, warmup: float, factor: Callable[[float], float]) -> Config:
    """`factor` maps the progress after warm-up, 0..1, to a multiple of the peak learning rate."""
    _check_fraction("warmup", warmup, "scheduler.warmup=0.1")
    warmup_steps = round(warmup * steps)

    def lr_lambda(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return factor(min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps)))

    return {"scheduler": LambdaLR(optimizer, lr_lambda), "interval": "step"}


def constant(optimizer: Optimizer, steps: int, monitor: tuple[str, str], warmup: float = 0.0) -> Config:
    """The peak learning rate after warm-up."""
    return _by_step(optimizer, steps, warmup, lambda progress: 1.0)


def cosine(
    optimizer: Optimizer, steps: int, monitor: tuple[str, str], warmup: float = 0.1, final: float = 0.0
) -> Config:
    """Half a cosine from the peak learning rate to `final` times it (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    return _by_step(
        optimizer, steps, warmup, lambda progress: final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
    )


def linear(
    optimizer: Optimizer, steps: int, monitor: tuple[str, str], warmup: float = 0.1, final: float = 0.0
) -> Config:
    """A straight line from the peak learning rate to `final` times it."""
    return _by_step(optimizer, steps, warmup, lambda progress: 1 - (1 - final) * progress)


def exponential(
    optimizer: Optimizer, steps: int, monitor: tuple[str, str], warmup: float = 0.1, final: float = 0.01
) -> Config:
    """The same factor every step, down to `final` times the peak learning rate; `final` > 0."""
    _check_fraction("final", final, "scheduler.final=0.01", zero=False)
    return _by_step(optimizer, steps, warmup, lambda progress: final**progress)


def step(
    optimizer: Optimizer,
    steps: int,
    monitor: tuple[str, str],
    warmup: float = 0.1,
    milestones: Sequence[float] = (0.6, 0.85),
    gamma: float = 0.1,
) -> Config:
    """Multiply by `gamma` at each of the `milestones`, which are fractions of the steps after warm-up."""
    for milestone in milestones:
        _check_fraction("milestones", milestone, "scheduler.milestones=[0.6,0.85]")
    return _by_step(optimizer, steps, warmup, lambda progress: gamma ** sum(progress >= m for m in milestones))


class _OneCycle(OneCycleLR):
    """Keeps its own length when it loads a state: a resumed run may train for more epochs."""

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
    """torch's OneCycleLR (Smith 2018, arXiv:1708.07120): each group rises to its own learning rate and falls again.

    Momentum moves in the opposite direction.
    """
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
    """torch's ReduceLROnPlateau on the monitored metric, in the direction that the head defines as better."""
    name, mode = monitor
    scheduler = ReduceLROnPlateau(optimizer, mode=mode, factor=factor, patience=patience)  # type: ignore[arg-type]
    return {"scheduler": scheduler, "interval": "epoch", "monitor": name}
