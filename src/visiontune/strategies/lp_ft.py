"""The heads train first, then everything."""

from visiontune.errors import UserError
from visiontune.strategies.base import HEADS, Strategy, is_number


class LpFt(Strategy):
    """Linear probing, then fine-tuning (Kumar et al. 2022, https://arxiv.org/abs/2202.10054).

    Fine-tuning with a random head distorts the pretrained features while the head converges; with a trained head it
    does not. With `probe=auto` a run already starts from a closed-form linear probe; the first epochs then train the
    heads further, with the loss and the augmentation of the training.

    Args:
        probe_epochs: fraction of all epochs in which only the heads train, between 0 and 1. With two epochs or more, it
            is rounded to at least one epoch, and at least one epoch remains for all stages.
        lr_decay, batchnorm: as in `Strategy`.

    Raises:
        UserError: `probe_epochs` is not between 0 and 1.
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
        if not is_number(probe_epochs) or not 0 < probe_epochs < 1:
            raise UserError(
                f"strategy.probe_epochs={probe_epochs}: a fraction of the {epochs} epochs, above 0 and below 1, such "
                "as strategy.probe_epochs=0.2"
            )
        self.start = min(max(1, round(probe_epochs * epochs)), epochs - 1)

    def trainable(self, epoch: int) -> set[str]:
        return {HEADS} if epoch < self.start else set(self.stages)
