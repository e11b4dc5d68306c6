"""Only the heads train."""

from typing import Any

from visiontune.strategies.base import HEADS, Stages, stage_groups


class LinearProbe:
    """The backbone stays as it was pretrained (Alain & Bengio 2016, https://arxiv.org/abs/1610.01644)."""

    batchnorm = "frozen"

    def __init__(self, stages: list[str], epochs: int) -> None:
        pass  # the answer depends on neither

    def param_groups(self, stages: Stages, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        return stage_groups(stages, lambda distance: lr, weight_decay)

    def trainable(self, epoch: int) -> set[str]:
        return {HEADS}

    def warmup(self, stage: str, epoch: float) -> float:
        return 1.0
