"""What a strategy is, and the parameter groups that all of them share."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

Stages = list[tuple[str, nn.Module]]
HEADS = "heads"  # the name of the last stage


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
            groups.append({"name": f"{name}.no_decay", "params": rest, "lr": rate, "weight_decay": 0.0})
    return groups
