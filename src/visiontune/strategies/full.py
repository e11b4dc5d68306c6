"""Everything trains from the first step."""

from typing import Any

from visiontune.strategies.base import Stages, stage_groups


class Full:
    """Plain fine-tuning, with a learning rate that may fall from the heads down.

    Args:
        lr_decay: learning rate of a stage over that of the stage after it, in (0, 1]; 1 = one rate for all.
        batchnorm: "frozen" keeps the pretrained statistics, "train" goes on learning them.
    """

    def __init__(self, stages: list[str], epochs: int, lr_decay: float = 1.0, batchnorm: str = "frozen") -> None:
        self.stages = stages
        self.lr_decay = lr_decay
        self.batchnorm = batchnorm

    def param_groups(self, stages: Stages, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        return stage_groups(stages, lambda distance: lr * self.lr_decay**distance, weight_decay)

    def trainable(self, epoch: int) -> set[str]:
        return set(self.stages)

    def warmup(self, stage: str, epoch: float) -> float:
        return 1.0
