"""Only the heads train."""

from visiontune.strategies.base import HEADS, Strategy


class LinearProbe(Strategy):
    """Linear probing: the backbone stays frozen (Alain & Bengio 2016, https://arxiv.org/abs/1610.01644).

    `batchnorm` has no effect, since a frozen stage never updates its statistics.
    """

    def __init__(self, stages: list[str], epochs: int, batchnorm: str = "frozen") -> None:
        super().__init__(stages, epochs, batchnorm=batchnorm)

    def trainable(self, epoch: int) -> set[str]:
        return {HEADS}
