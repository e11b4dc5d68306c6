"""best.ckpt and last.ckpt."""

import math
import signal
import threading
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint


class Checkpoints(Checkpoint):
    """Writes `last.ckpt` after every validation, and `best.ckpt` when the monitored metric is better than ever.

    Unlike Lightning's ModelCheckpoint it also counts the validation before the first step (where the probe stands),
    needs no file name patterns, and leaves a loadable `last.ckpt` when the run is interrupted. Of equal scores, which a
    small validation split has many of, the later epoch counts: its learning rate was lower. Lightning writes each file
    beside its place and renames it.

    Args:
        directory: where both files go.
        monitor: name of the metric, and "max" or "min".
        keep_start: whether the weights before the first step are kept as `start.ckpt` as well.
    """

    def __init__(self, directory: Path, monitor: tuple[str, str], keep_start: bool = False) -> None:
        self.best_path, self.last_path = directory / "best.ckpt", directory / "last.ckpt"
        self.start_path = directory / "start.ckpt" if keep_start else None
        self.monitor, self.mode = monitor
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self.handler: Any = None
        self.asked = self.forced = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Several processes would stop at different batches and wait for each other.
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self.handler = signal.signal(signal.SIGINT, self._asked)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.handler is not None:
            signal.signal(signal.SIGINT, self.handler)
            self.handler = None

    def _asked(self, *_: Any) -> None:
        """Ctrl-C stops between two batches, where a checkpoint is exact; the second one stops at once."""
        self.forced = self.asked
        self.asked = True
        if self.forced:
            raise KeyboardInterrupt

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.asked:
            raise KeyboardInterrupt

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.start_path and trainer.global_step == 0:
            trainer.save_checkpoint(self.start_path, weights_only=True)
        score = float(trainer.callback_metrics[self.monitor])
        if self._better(score):
            self.best_score, self.best_epoch = score, trainer.current_epoch
            trainer.save_checkpoint(self.best_path)
        trainer.save_checkpoint(self.last_path)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.best_score is None and self.monitor in trainer.callback_metrics:
            raise RuntimeError(
                f"{self.monitor} was NaN in every validation (a split of one class alone?), so that no epoch is the "
                "best: write another monitor=val/TASK/METRIC"
            )

    def _better(self, score: float) -> bool:
        if math.isnan(score):
            return False
        if self.best_score is None:
            return True
        return score >= self.best_score if self.mode == "max" else score <= self.best_score

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        # With several processes saving waits for all of them, and one that failed would never come.
        between = isinstance(exception, KeyboardInterrupt) and not self.forced and trainer.world_size == 1
        if between and trainer.state.fn == "fit":
            trainer.save_checkpoint(self.last_path)

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]
