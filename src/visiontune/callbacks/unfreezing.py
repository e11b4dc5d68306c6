"""Unfreezes: by the scores, in the checkpoint, in TensorBoard."""

from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from visiontune.runs.log import log


class UnfreezeLog(L.Callback):
    """Tells the strategy the monitored metric after each validation, and keeps in checkpoints what it decides by it.

    A checkpoint has the decision that its own validation led to: it is written when the next batch begins. In the logs
    `strategy/trained_stages` is how many stages train; TensorBoard has a text at each unfreeze as well.

    Args:
        monitor: name of the metric, and "max" or "min".
    """

    def __init__(self, monitor: tuple[str, str]) -> None:
        self.monitor, self.mode = monitor
        self.marked = -1  # the last epoch that stands in the logs

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.state.fn != "fit":
            return
        epochs = trainer.current_epoch + 1 if trainer.global_step else 0
        # One rank's number for all: they have to decide alike, to the last bit of it.
        score = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))
        thawed = pl_module.strategy.observe(epochs, score if self.mode == "max" else -score)
        if thawed and epochs < (trainer.max_epochs or 0):
            log.info(f"{self.monitor} has stalled: {', '.join(thawed)} trains from epoch {epochs + 1} on")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        epoch = trainer.current_epoch
        if epoch <= self.marked:  # a run that goes on where an epoch had just begun
            return
        self.marked = epoch
        now = pl_module.strategy.trainable(epoch)
        new = now - (pl_module.strategy.trainable(epoch - 1) if epoch else set())
        text = f"epoch {epoch + 1}: {', '.join(name for name, _ in pl_module.stages() if name in new)}"
        for logger in trainer.loggers:
            logger.log_metrics({"strategy/trained_stages": len(now)}, step=trainer.global_step)
            if new and isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("strategy/thaws", text, trainer.global_step)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["strategy"] = pl_module.strategy.state_dict()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if state := checkpoint.get("strategy"):
            pl_module.strategy.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        return {"marked": self.marked}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.marked = state_dict["marked"]
