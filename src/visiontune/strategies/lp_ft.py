"""First the heads, then everything."""

from visiontune.errors import UserError
from visiontune.strategies.base import HEADS, Strategy


class LpFt(Strategy):
    """Linear probing, then fine-tuning (Kumar et al. 2022, https://arxiv.org/abs/2202.10054).

    Fine-tuning from a random head distorts the pretrained features while the head settles; from a fitted one it
    does not. A run begins at the closed-form probe in any case (`probe=auto`); these epochs go on from it, with the
    training's own loss and augmentation.

    Args:
        probe_epochs: fraction of all epochs, 0..1, in which the heads train alone; of two epochs or more one at least,
            and one at least is left for the rest.
        lr_decay, batchnorm: as in `Strategy`.

    Raises:
        UserError: another fraction.
    """

    def __init__(
        self,
        stages: list[str],
        epochs: int,
        probe_epochs: float = 0.2,
        lr_decay: float = 1.0,
        batchnorm: str = "frozen",
    ) -> None:
        super().__init__(stages, epochs, lr_decay, batchnorm)
        if not isinstance(probe_epochs, int | float) or not 0 < probe_epochs < 1:
            raise UserError(
                f"strategy.probe_epochs={probe_epochs}: a fraction of the {epochs} epochs that leaves some for all "
                "stages, such as strategy.probe_epochs=0.2"
            )
        self.start = min(max(1, round(probe_epochs * epochs)), epochs - 1)

    def trainable(self, epoch: int) -> set[str]:
        return {HEADS} if epoch < self.start else set(self.stages)
