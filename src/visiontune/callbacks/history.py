"""metrics.csv, and a line in the terminal for each epoch."""

import csv
import time
from pathlib import Path

import lightning as L

from visiontune.runs.files import write_atomically
from visiontune.runs.log import log


class History(L.Callback):
    """Writes a row of `metrics.csv` after each epoch; the row before the first step has `epoch` 0 and `step` 0.

    `epoch` counts completed epochs. A resumed run drops the rows after its checkpoint, so the curve has no gap and no
    duplicate row.
    """

    def __init__(self, path: Path, monitor: tuple[str, str]) -> None:
        self.path = path
        self.monitor, _ = monitor
        self.rows: list[dict[str, str]] = []
        self.started = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.monotonic()
        if self.path.exists():
            with self.path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= trainer.global_step]
            self.started -= float(self.rows[-1]["seconds"]) if self.rows else 0.0

    # The training metrics of an epoch are complete after its validation.
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write_row(trainer, trainer.current_epoch + 1)

    def write_initial_row(self, trainer: L.Trainer) -> None:
        """Write the row of the validation before the first step."""
        self._write_row(trainer, 0)

    def _write_row(self, trainer: L.Trainer, epoch: int) -> None:
        # Reading callback_metrics averages train/loss over the ranks, so every rank has to read it.
        metrics = {name: v for name, v in trainer.callback_metrics.items() if name.startswith(("train/", "val/"))}
        if not trainer.is_global_zero or any(row["epoch"] == str(epoch) for row in self.rows):
            return  # a resumed run ends the epoch of its checkpoint a second time
        values = {name: float(v) for name, v in metrics.items() if name != "train/loss_step"}
        seconds = time.monotonic() - self.started
        row = {"epoch": str(epoch), "step": str(trainer.global_step), "seconds": f"{seconds:.1f}"}
        self.rows.append(row | {name: f"{value:.6g}" for name, value in sorted(values.items())})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with write_atomically(self.path) as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)
        names = ["train/loss", "val/loss", self.monitor]
        text = "  ".join(f"{name} {values[name]:.4f}" for name in dict.fromkeys(names) if name in values)
        log.info(f"epoch {epoch}/{trainer.max_epochs}  step {trainer.global_step}  {seconds:.0f} s  {text}")
