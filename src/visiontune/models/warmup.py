"""Learning rates of newly unfrozen stages."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.optim import Optimizer

from visiontune.strategies import Strategy


@contextmanager
def stage_warmup(optimizer: Optimizer, strategy: Strategy, epoch: float) -> Iterator[None]:
    """Inside the context, each group's learning rate is multiplied by its stage's warm-up factor.

    Afterwards it is the schedule's value again, also if a callback changed it inside the context.

    Args:
        epoch: as in `Strategy.warmup`, e.g. 2.5 is the middle of the third epoch.
    """
    scheduled = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] *= strategy.warmup(group["stage"], epoch)
    try:
        yield
    finally:
        for group, lr in zip(optimizer.param_groups, scheduled, strict=True):
            group["lr"] = lr
