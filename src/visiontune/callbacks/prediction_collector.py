"""Predictions of an evaluation pass."""

import heapq
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from visiontune.errors import first_line
from visiontune.models.heads.describable import Describable
from visiontune.runs.log import log
from visiontune.runs.predictions import Row

WORST = 16


@dataclass(frozen=True)
class EvaluatedSample:
    """A sample's prediction and target for one task, in pixels of the original image."""

    path: str
    loss: float
    prediction: dict[str, Tensor]
    truth: Any


class PredictionCollector(L.Callback):
    """Collects a row per sample and task of an evaluation pass, and the `WORST` samples of each task by loss.

    The predictions of all other samples are dropped, since those of a whole split may not fit into memory.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.failures: set[str] = set()  # tasks whose predictions cannot be described
        self._worst: dict[str, list[tuple[float, int, EvaluatedSample]]] = {}
        self._count = itertools.count()  # breaks ties between equal losses

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for task, predictions in outputs["predictions"].items():
            head, losses = pl_module.heads[task], outputs["losses"][task].tolist()
            for path, truth, prediction, loss in zip(
                batch["path"], batch["truth"][task], predictions, losses, strict=True
            ):
                row = Row(path, pl_module.split, task, "", "", math.nan, loss)
                if isinstance(head, Describable) and task not in self.failures:
                    try:
                        text, score = head.describe(prediction)
                        row = replace(row, truth=head.describe_target(truth), prediction=text, score=score)
                    except Exception as error:  # the code of a head may raise any type
                        self.failures.add(task)
                        log.warning(
                            f"warning: predictions of {task} have no text: {type(error).__name__}: {first_line(error)}"
                        )
                self.rows.append(row)
                self._keep(task, path, loss, prediction, truth)

    def _keep(self, task: str, path: str, loss: float, prediction: dict[str, Tensor], truth: Any) -> None:
        heap = self._worst.setdefault(task, [])
        if math.isnan(loss) or (len(heap) == WORST and loss <= heap[0][0]):
            return
        sample = EvaluatedSample(path, loss, *move_data_to_device((prediction, truth), "cpu"))
        heapq.heappush(heap, (loss, next(self._count), sample))
        if len(heap) > WORST:
            heapq.heappop(heap)

    def worst(self) -> dict[str, list[EvaluatedSample]]:
        """The samples with the largest losses by task, largest first; samples without a label are left out."""
        return {
            task: [sample for _, _, sample in sorted(heap, key=lambda entry: (-entry[0], entry[1]))]
            for task, heap in self._worst.items()
        }
