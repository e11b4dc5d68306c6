"""A fixed set of the backbone's stages trains, with the heads."""

from abc import ABC, abstractmethod

from visiontune.strategies.base import HEADS, Strategy, check_stage_count


class _SomeStages(Strategy, ABC):
    """
    Args:
        k: number of stages of the backbone that train, 1 or more.
        lr_decay, batchnorm: as in `Strategy`.

    Raises:
        UserError: `k` is below 1, or the backbone has fewer stages.
    """

    def __init__(
        self, stages: list[str], epochs: int, k: int = 2, lr_decay: float = 1.0, batchnorm: str = "frozen"
    ) -> None:
        super().__init__(stages, epochs, lr_decay, batchnorm)
        self.trained = {*self.select(stages[:-1], check_stage_count(k, "k", stages)), HEADS}

    @abstractmethod
    def select(self, backbone: list[str], k: int) -> list[str]:
        """The stages that train, of all stages of the backbone from input to output."""

    def trainable(self, epoch: int) -> set[str]:
        return set(self.trained)


class LastK(_SomeStages):
    """Trains the stages nearest to the heads, which hold the most specific features (Yosinski et al. 2014,
    https://arxiv.org/abs/1411.1792)."""

    def select(self, backbone: list[str], k: int) -> list[str]:
        return backbone[-k:]


class FirstK(_SomeStages):
    """Trains the stages nearest to the input: surgical fine-tuning, for images of the same things that look different
    (Lee et al. 2023, https://arxiv.org/abs/2210.11466)."""

    def select(self, backbone: list[str], k: int) -> list[str]:
        return backbone[:k]
