"""Evaluate a model on one whole split, on one device."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from visiontune.callbacks.prediction_collector import EvaluatedSample, PredictionCollector
from visiontune.data import VisionData
from visiontune.data.shared_memory import shared_memory_errors
from visiontune.errors import UserError, first_line
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.metrics import PerClass, Value
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import log
from visiontune.runs.predictions import Row
from visiontune.training.cluster import own_processes
from visiontune.training.load import read_checkpoint


@dataclass(frozen=True)
class Evaluation:
    """The results of one split.

    Args:
        metrics: by `SPLIT/TASK/METRIC`.
        rows: rows of predictions.csv, one for each sample and task.
        worst: for each task, the samples with the largest loss, the largest first.
        computed: for each task, the metrics as tensors, also those that are not logged, such as a confusion matrix.
        failures: for each task whose metrics raised an error, the message; it has only its loss.
    """

    split: str
    metrics: dict[str, float]
    rows: list[Row]
    worst: dict[str, list[EvaluatedSample]]
    computed: dict[str, dict[str, Value]]
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def per_class(self) -> dict[str, list[PerClass]]:
        """For each task, the metrics with a value per class; in `metrics` they are `SPLIT/TASK/METRIC/CLASS`."""
        return {
            task: [value for value in values.values() if isinstance(value, PerClass)]
            for task, values in self.computed.items()
        }


class _SplitData(L.LightningDataModule):
    def __init__(self, data: VisionData, split: str, original_images: bool) -> None:
        super().__init__()
        self.data, self.split, self.original_images = data, split, original_images

    def test_dataloader(self) -> Any:
        return self.data.eval_loader(self.split, original_images=self.original_images)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.data.to_network(batch)


def evaluate(
    model: FineTuner,
    data: VisionData,
    split: str,
    accelerator: str = "auto",
    precision: str = "32-true",
    original_images: bool = False,
    callbacks: Sequence[L.Callback] = (),
) -> Evaluation:
    """Compute all metrics of `model` on the train, val or test split.

    Args:
        original_images: also load the original images, which an exported file resizes itself.
        callbacks: further callbacks of the evaluation loop.

    Raises:
        UserError: the data has no such split, or the machine has no such accelerator.
    """
    collector = PredictionCollector()
    model.split = split
    data.trainer = None  # one loader for the whole split, also after a distributed training
    trainer = quiet_trainer(accelerator, precision, [collector, *callbacks])
    model.scores.failures = {}  # the metrics of one head do not take those of the others with them
    try:
        with shared_memory_errors():
            trainer.test(model, datamodule=_SplitData(data, split, original_images), verbose=False)
        failures = {task: f"{type(e).__name__}: {first_line(e)}" for task, e in model.scores.failures.items()}
    finally:
        model.scores.failures = None
    for task, failure in failures.items():
        log.warning(f"warning: {split} has no metrics of {task}: {failure}")
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return Evaluation(split, metrics, collector.rows, collector.worst(), dict(model.scores.computed), failures)


def measured_splits(cfg: DictConfig, data: VisionData) -> list[str]:
    """The splits that are evaluated when a run ends."""
    return ["val", "test"] if cfg.test and data.samples("test") else ["val"]


def measure(cfg: DictConfig, run: RunDirectory, data: VisionData, model: FineTuner) -> list[Evaluation]:
    """Load the best checkpoint into `model` and evaluate it on one device, on each of `measured_splits`."""
    model.load_state_dict(read_checkpoint(run.checkpoint("best"))["state_dict"])
    splits = measured_splits(cfg, data)
    return [evaluate(model, data, split, cfg.trainer.accelerator, cfg.trainer.precision) for split in splits]


def best_score(run: RunDirectory, model: FineTuner, results: list[Evaluation]) -> dict[str, Any]:
    """The monitored metric of the best checkpoint, and the number of epochs after which it was written."""
    (name, mode), state = model.monitor, read_checkpoint(run.checkpoint("best"))
    return {"name": name, "mode": mode, "value": results[0].metrics[name], "epoch": state["visiontune"]["epochs"]}


def quiet_trainer(accelerator: str, precision: str, callbacks: list[L.Callback] | None = None) -> L.Trainer:
    """Build a Trainer for one device that writes nothing.

    Raises:
        UserError: the machine has no such accelerator; a run may have been trained on another machine.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        return L.Trainer(
            accelerator=accelerator,
            devices=1,
            precision=precision,  # type: ignore[arg-type]
            plugins=own_processes(),
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except MisconfigurationException as error:
        raise UserError(f"accelerator={accelerator}: {first_line(error)} Write accelerator=cpu") from error
