"""What a strategy is, and the parameter groups that all of them share."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

Stages = list[tuple[str, nn.Module]]
HEADS = "heads"  # the name of the last stage
NO_DECAY = ".no_decay"  # ends the name of a stage's second group


class Strategy(Protocol):
    """Built once with the stage names, input to output and "heads" last, and the number of epochs.

    Attributes:
        batchnorm: "frozen" or "train": what BatchNorm does in backbone stages that train.
    """

    batchnorm: str

    def param_groups(self, stages: Stages, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups with `name`, `params`, `lr`, `weight_decay`: every parameter in exactly one, at once.

        All groups exist from step 0; a stage that thaws later is only switched on (groups added later break resume,
        schedulers with state per group and weight averages).
        """

    def trainable(self, epoch: int) -> set[str]:
        """Names of the stages that train in this epoch; the same answer however often and whenever it is asked."""

    def warmup(self, stage: str, epoch: float) -> float:
        """Factor 0..1 of a stage's learning rate at a point within an epoch (2.5 is the middle of the third)."""


def stage_groups(stages: Stages, lr: Callable[[int], float], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups a stage: weights, which decay, and norms and biases, which do not.

    Args:
        stages: input to output.
        lr: learning rate by distance from the output (0 = the heads).
    """
    groups = []
    for i, (name, module) in enumerate(stages):
        parameters = list(module.parameters())
        rate = lr(len(stages) - 1 - i)
        weights = [p for p in parameters if p.ndim > 1]
        rest = [p for p in parameters if p.ndim <= 1]
        if weights:
            groups.append({"name": name, "params": weights, "lr": rate, "weight_decay": weight_decay})
        if rest:
            groups.append({"name": name + NO_DECAY, "params": rest, "lr": rate, "weight_decay": 0.0})
    return groups


def stage_of(group: dict[str, Any]) -> str:
    """The stage that a group of `stage_groups` belongs to."""
    return group["name"].removesuffix(NO_DECAY)
