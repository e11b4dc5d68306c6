"""Unfreezing of stages: reports scores to the strategy, saves its decisions, logs how many stages train."""

from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from visiontune.runs.log import log


class UnfreezeMonitor(L.Callback):
    """Reports the monitored metric to the strategy after each validation, and logs how many stages train.

    A strategy may unfreeze stages when the metric stalls; checkpoints hold these decisions. The curve is
    `strategy/trained_stages`; TensorBoard also shows a text for each unfreezing.

    Args:
        monitor: name of the metric, and "max" or "min".
    """

    def __init__(self, monitor: tuple[str, str]) -> None:
        self.monitor, self.mode = monitor
        self.logged_epoch = -1  # the last epoch that was logged

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.state.fn != "fit":
            return
        epochs = trainer.current_epoch + 1 if trainer.global_step else 0
        # All ranks use rank 0's score, so that they decide the same.
        score = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))
        unfrozen = pl_module.strategy.observe(epochs, score if self.mode == "max" else -score)
        if unfrozen and epochs < (trainer.max_epochs or 0):
            log.info(f"{self.monitor} has stalled: {', '.join(unfrozen)} trains from epoch {epochs + 1} on")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        epoch = trainer.current_epoch
        if epoch <= self.logged_epoch:  # a run that resumes at the start of an epoch has logged it already
            return
        self.logged_epoch = epoch
        trainable = pl_module.strategy.trainable(epoch)
        new = trainable - (pl_module.strategy.trainable(epoch - 1) if epoch else set())
        text = f"epoch {epoch + 1}: {', '.join(name for name, _ in pl_module.stages() if name in new)}"
        for logger in trainer.loggers:
            logger.log_metrics({"strategy/trained_stages": len(trainable)}, step=trainer.global_step)
            if new and isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("strategy/unfreezing", text, trainer.global_step)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["strategy"] = pl_module.strategy.state_dict()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if state := checkpoint.get("strategy"):
            pl_module.strategy.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        return {"logged_epoch": self.logged_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.logged_epoch = state_dict["logged_epoch"]
