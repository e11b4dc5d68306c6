"""Learning rates of newly unfrozen stages."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.optim import Optimizer

from visiontune.strategies import Strategy


@contextmanager
def stage_warmup(optimizer: Optimizer, strategy: Strategy, epoch: float) -> Iterator[None]:
    """Within, each group's learning rate is multiplied by its stage's warm-up factor at this point of an epoch.

    Afterwards it is what the schedule set, whatever else changed it meanwhile.
    """
    scheduled = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] *= strategy.warmup(group["stage"], epoch)
    try:
        yield
    finally:
        for group, lr in zip(optimizer.param_groups, scheduled, strict=True):
            group["lr"] = lr
