"""A row a sample, and the worst of them whole."""

import heapq
import itertools
import math
from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from visiontune.runs.predictions import Row

WORST = 16


@dataclass(frozen=True)
class Case:
    """A sample of one task with its prediction, both in pixels of the image."""

    path: str
    loss: float
    prediction: dict[str, Tensor]
    truth: Any


class Collector(L.Callback):
    """Keeps a row of every sample of an evaluation pass, and the `WORST` samples of each task with the largest loss.

    Predictions of a whole split (masks, restored images) need not fit into memory.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._worst: dict[str, list[tuple[float, int, Case]]] = {}
        self._count = itertools.count()  # decides between equal losses, which cases could not

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
                text, score = head.describe(prediction)
                self.rows.append(Row(path, pl_module.split, task, head.describe_target(truth), text, score, loss))
                self._keep(task, path, loss, prediction, truth)

    def _keep(self, task: str, path: str, loss: float, prediction: dict[str, Tensor], truth: Any) -> None:
        heap = self._worst.setdefault(task, [])
        if math.isnan(loss) or (len(heap) == WORST and loss <= heap[0][0]):
            return
        case = Case(path, loss, *move_data_to_device((prediction, truth), "cpu"))
        (heapq.heappush if len(heap) < WORST else heapq.heappushpop)(heap, (loss, next(self._count), case))

    def worst(self) -> dict[str, list[Case]]:
        """By task, the largest loss first; samples without a label are not among them."""
        return {
            task: [case for _, _, case in sorted(heap, key=lambda entry: (-entry[0], entry[1]))]
            for task, heap in self._worst.items()
        }
