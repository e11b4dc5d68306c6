"""Everything trains from the first step."""

from collections.abc import Mapping

from visiontune.errors import UserError
from visiontune.strategies.base import Strategy


class Full(Strategy):
    """Plain fine-tuning; with `lr_decay` or `rates` discriminative (Howard & Ruder 2018, arXiv:1801.06146).

    Args:
        lr_decay, batchnorm: as in `Strategy`.
        rates: learning rate of named stages over that of the heads; the others follow `lr_decay`.

    Raises:
        UserError: a rate of a stage that the backbone lacks.
    """

    def __init__(
        self,
        stages: list[str],
        epochs: int,
        lr_decay: float = 1.0,
        rates: Mapping[str, float] | None = None,
        batchnorm: str = "frozen",
    ) -> None:
        super().__init__(stages, epochs, lr_decay, batchnorm)
        self.rates = dict(rates or {})
        if unknown := sorted(set(self.rates) - set(stages)):
            raise UserError(
                f"strategy.rates names stage {unknown[0]!r}, which this backbone lacks: "
                f"its stages are {', '.join(stages)}"
            )

    def rate(self, stage: str, distance: int) -> float:
        return self.rates.get(stage, super().rate(stage, distance))
