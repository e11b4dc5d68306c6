"""The checkpoints of a run directory: best.ckpt and last.ckpt."""

import math
import re
import time
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import TorchCheckpointIO

from visiontune import signals
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import save_atomically
from visiontune.runs.log_files import log_file_lengths


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically: to a temporary file in the same folder, which is then renamed.

    Lightning writes to the system's temporary folder. If that is on another disk, the file is copied, and a run that is
    killed during the copy leaves an incomplete file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.checked = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raise RuntimeError if the first checkpoint of a run cannot be loaded with `weights_only=True`."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_atomically(Path(path), checkpoint)
        if not self.checked:
            self.checked = True
            try:
                torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except UnpicklingError as error:
                match = re.search(r"GLOBAL (\S+)", str(error))
                raise RuntimeError(
                    f"a callback's state holds {match[1] if match else 'more than plain data'}, so that no checkpoint "
                    "can be loaded: return only numbers, text, lists, dictionaries and tensors from its state_dict"
                ) from error


class Checkpoints(Checkpoint):
    """Writes `last.ckpt` after every epoch and interval, and `best.ckpt` when the monitored metric has improved.

    It writes between two batches, where a resume is exact: after the validation and its logging, and before the next
    batch. It must be the first callback. The previous `last.ckpt` is kept as `previous.ckpt` until the training ends,
    in case the newest file is corrupt.

    Unlike Lightning's ModelCheckpoint it also counts the validation before the first step (of the linear probe), needs
    no file name patterns, and writes `last.ckpt` when a signal stops the run. Of equal scores, which are common on a
    small validation split, the later epoch is the best, since its learning rate was lower.

    The first signal stops a training between two batches, the ranks all before the same one. Before the first batch
    there is nothing to save, and it stops the training immediately, as the second signal always does.

    Args:
        run: the run directory to write to.
        monitor: name of the metric, and "max" or "min".
        every_steps: write `last.ckpt` after this number of steps as well.
        every_minutes: write it after this number of minutes as well.
        keep_start: also save the weights before the first step, as `start.ckpt`.
        pause_after: stop after this number of epochs, as a signal would; the run can be resumed.
    """

    def __init__(
        self,
        run: RunDirectory,
        monitor: tuple[str, str],
        every_steps: int | None = None,
        every_minutes: float | None = None,
        keep_start: bool = False,
        pause_after: int | None = None,
    ) -> None:
        self.run = run
        self.every_steps, self.every_minutes = every_steps, every_minutes
        self.keep_start = keep_start
        self.pause_after = pause_after
        self.monitor, self.mode = monitor
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self.stopped_before: int | None = None  # max_epochs of a training that stopped early
        self.validated = self.improved = False  # since the last checkpoint
        self.saved_step, self.saved_at = 0, time.monotonic()
        self.handlers: signals.Handlers = {}  # those that handle signals after the training
        self.windows: int | None = None  # windows of batches in this process; None before the first batch

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved_step, self.saved_at = trainer.global_step, time.monotonic()
        if self.stopped_before == trainer.max_epochs:  # it stopped early; only a resume with more epochs trains again
            trainer.should_stop = True
        # Lightning has just registered another handler, which would stop the training without a checkpoint. Ranks
        # that nobody controls would stop before different batches, and wait for each other.
        if trainer.world_size == 1 or signals.is_controlled():
            self.handlers = signals.install()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop_handling()

    def _stop_handling(self) -> None:
        if self.windows is not None:
            signals.release()
        signals.restore(self.handlers)
        self.windows, self.handlers = None, {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        # All ranks use rank 0's score, so that they save together.
        score = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]), src=0)
        self.validated = True
        if self._is_better(score):
            self.best_score, self.best_epoch = score, trainer.current_epoch
            self.improved = True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # After a resume Lightning's count, which is the step of logged values, is off by one.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        stops = self._stops(trainer, batch_idx)
        pauses = self.pause_after is not None and trainer.current_epoch >= self.pause_after
        if self.validated or stops or pauses or self._is_due(trainer, batch_idx):
            self._save(trainer)
        if stops:
            raise signals.interruption()
        if pauses:
            raise signals.Paused(trainer.current_epoch)

    def _stops(self, trainer: L.Trainer, batch_idx: int) -> bool:
        """Whether a signal stops the training before this batch."""
        if not self.handlers:
            return False
        if self.windows is None:
            self.windows = 0
            signals.hold()
        if trainer.world_size > 1 and batch_idx % trainer.accumulate_grad_batches:
            return False  # within an accumulation window the gradients differ between ranks
        self.windows += 1
        return signals.is_due(self.windows)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.should_stop:
            self.stopped_before = trainer.max_epochs
        if self.validated:
            self._save(trainer)
        if trainer.is_global_zero:
            (self.run.checkpoints / "previous.ckpt").unlink(missing_ok=True)
        if self.best_score is None and self.monitor in trainer.callback_metrics:
            raise RuntimeError(
                f"{self.monitor} was NaN in every validation (does the split have a single class?), so there is no "
                "best epoch; write another monitor=val/TASK/METRIC, such as monitor=val/TASK/loss"
            )
        self._stop_handling()
        if not signals.is_controlled():  # the parent of ranks waits until all have finished
            signals.check()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
        checkpoint["log_files"] = log_file_lengths(self.run.path)

    def _is_due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        if self.every_steps is not None and trainer.global_step - self.saved_step >= self.every_steps:
            return True
        if self.every_minutes is None:
            return False
        late = time.monotonic() - self.saved_at >= 60 * self.every_minutes
        if trainer.world_size == 1:
            return late
        # Within an accumulation window the gradients differ between ranks.
        return trainer.strategy.broadcast(late, src=0) and batch_idx % trainer.accumulate_grad_batches == 0

    def _save(self, trainer: L.Trainer) -> None:
        folder = self.run.checkpoints
        if self.keep_start and trainer.global_step == 0:
            trainer.save_checkpoint(folder / "start.ckpt", weights_only=True)
        # best.ckpt first: a resume from last.ckpt assumes that it was written.
        if self.improved:
            trainer.save_checkpoint(folder / "best.ckpt")
        trainer.save_checkpoint(folder / "next.ckpt")
        if trainer.is_global_zero:
            if (folder / "last.ckpt").exists():
                (folder / "last.ckpt").replace(folder / "previous.ckpt")
            (folder / "next.ckpt").replace(folder / "last.ckpt")
        self.validated = self.improved = False
        self.saved_step, self.saved_at = trainer.global_step, time.monotonic()

    def _is_better(self, score: float) -> bool:
        if math.isnan(score):
            return False
        if self.best_score is None:
            return True
        return score >= self.best_score if self.mode == "max" else score <= self.best_score

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_epoch": self.best_epoch, "stopped_before": self.stopped_before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]
        self.stopped_before = state_dict.get("stopped_before")
