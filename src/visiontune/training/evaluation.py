"""Evaluate a model on one whole split, on one device."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L

from visiontune.callbacks.prediction_collector import EvaluatedSample, PredictionCollector
from visiontune.data import VisionData
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.metrics import PerClass, Value
from visiontune.runs.predictions import Row


@dataclass(frozen=True)
class Evaluation:
    """The results of one split.

    Args:
        rows: rows of predictions.csv, one for each sample and task.
        worst: for each task the samples with the largest loss, the largest first.
        computed: for each task the metrics as tensors, including those that are not logged, such as a confusion matrix.
    """

    split: str
    metrics: dict[str, float]
    rows: list[Row]
    worst: dict[str, list[EvaluatedSample]]
    computed: dict[str, dict[str, Value]]

    @property
    def per_class(self) -> dict[str, list[PerClass]]:
        """For each task the per-class metrics; in `metrics` their names are `SPLIT/TASK/METRIC/CLASS`."""
        return {
            task: [value for value in values.values() if isinstance(value, PerClass)]
            for task, values in self.computed.items()
        }


class _SplitData(L.LightningDataModule):
    def __init__(self, data: VisionData, split: str, stored: bool) -> None:
        super().__init__()
        self.data, self.split, self.stored = data, split, stored

    def test_dataloader(self) -> Any:
        return self.data.eval_loader(self.split, original_images=self.stored)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.data.to_network(batch)


def evaluate(
    model: FineTuner,
    data: VisionData,
    split: str,
    accelerator: str = "auto",
    precision: str = "32-true",
    stored: bool = False,
    callbacks: Sequence[L.Callback] = (),
) -> Evaluation:
    """Compute all metrics of `model` on the train, val or test split.

    Args:
        stored: load the original images, for an exported file that resizes them itself.
        callbacks: further callbacks of the evaluation loop.

    Raises:
        UserError: the data has no such split.
    """
    collector = PredictionCollector()
    model.split = split
    data.trainer = None  # one loader for the whole split, also after a distributed training
    trainer = quiet_trainer(accelerator, precision, [collector, *callbacks])
    trainer.test(model, datamodule=_SplitData(data, split, stored), verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return Evaluation(split, metrics, collector.rows, collector.worst(), dict(model.scores.computed))


def quiet_trainer(accelerator: str, precision: str, callbacks: list[L.Callback] | None = None) -> L.Trainer:
    """A Trainer for one device that writes nothing."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return L.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
