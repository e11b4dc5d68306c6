"""Validation before the first step."""

import lightning as L

from visiontune.callbacks.history import History


class InitialValidation(L.Callback):
    """Validates before the first step, so that the initial weights are the first candidate for `best.ckpt`.

    With `ProbeInitialization`, a run therefore never ends below its linear probe on the validation split.
    """

    def __init__(self, history: History) -> None:
        self.history = history

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.ckpt_path is not None:
            return
        # Lightning's training loop does the same around each validation.
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True
        self.history.write_initial_row(trainer)
