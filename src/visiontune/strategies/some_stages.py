"""A fixed part of the backbone trains, with the heads."""

from abc import ABC, abstractmethod

from visiontune.strategies.base import HEADS, Strategy, chosen


class _SomeStages(Strategy, ABC):
    """
    Args:
        k: how many stages of the backbone.
        lr_decay, batchnorm: as in `Strategy`.

    Raises:
        UserError: the backbone has fewer.
    """

    def __init__(
        self, stages: list[str], epochs: int, k: int = 2, lr_decay: float = 1.0, batchnorm: str = "frozen"
    ) -> None:
        super().__init__(stages, epochs, lr_decay, batchnorm)
        self.part = {*self.pick(stages[:-1], chosen(k, "k", stages)), HEADS}

    @abstractmethod
    def pick(self, backbone: list[str], k: int) -> list[str]:
        """Those of the backbone's stages (input to output) that train."""

    def trainable(self, epoch: int) -> set[str]:
        return set(self.part)


class LastK(_SomeStages):
    """The stages nearest to the heads: what is specific to a task stands there (Yosinski et al. 2014,
    https://arxiv.org/abs/1411.1792)."""

    def pick(self, backbone: list[str], k: int) -> list[str]:
        return backbone[-k:]


class FirstK(_SomeStages):
    """The stages nearest to the input: surgical fine-tuning, for images that look different but show the same (Lee et
    al. 2023, https://arxiv.org/abs/2210.11466)."""

    def pick(self, backbone: list[str], k: int) -> list[str]:
        return backbone[:k]
