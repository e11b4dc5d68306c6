"""Everything trains from the first step."""

from collections.abc import Mapping

from visiontune.errors import UserError
from visiontune.strategies.base import Strategy, is_number


class Full(Strategy):
    """Plain fine-tuning, or discriminative fine-tuning with `lr_decay` or `lr_scales` (Howard & Ruder 2018,
    https://arxiv.org/abs/1801.06146).

    Args:
        lr_decay, batchnorm: as in `Strategy`.
        lr_scales: learning rate of named stages divided by that of the heads, 0 or more; the others follow `lr_decay`.

    Raises:
        UserError: `lr_scales` names a stage that the backbone lacks, or a value is negative.
    """

    def __init__(
        self,
        stages: list[str],
        epochs: int,
        lr_decay: float = 1.0,
        lr_scales: Mapping[str, float] | None = None,
        batchnorm: str = "frozen",
    ) -> None:
        super().__init__(stages, epochs, lr_decay, batchnorm)
        self.lr_scales = dict(lr_scales or {})
        if unknown := sorted(set(self.lr_scales) - set(stages)):
            raise UserError(
                f"strategy.lr_scales names stage {unknown[0]!r}, which this backbone lacks: "
                f"its stages are {', '.join(stages)}"
            )
        for stage, scale in self.lr_scales.items():
            if not is_number(scale) or scale < 0:
                raise UserError(
                    f"strategy.lr_scales={{{stage}: {scale}}}: write a number, 0 or more, such as "
                    f"strategy.lr_scales={{{stage}: 0.1}}"
                )

    def lr_scale(self, stage: str, distance: int) -> float:
        return self.lr_scales.get(stage, super().lr_scale(stage, distance))
