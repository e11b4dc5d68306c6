"""A row a sample."""

from typing import Any

import lightning as L
import torch

from visiontune.runs.predictions import Row


class Collector(L.Callback):
    """Keeps truth, prediction and loss of every sample of an evaluation pass, in `rows` and `predictions`."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.predictions: dict[tuple[str, str], dict[str, torch.Tensor]] = {}  # by (task, path)

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
            for path, target, prediction, loss in zip(
                batch["path"], batch["targets"][task], predictions, losses, strict=True
            ):
                prediction = {name: value.cpu() for name, value in prediction.items()}
                text, score = head.describe(prediction)
                self.rows.append(
                    Row(path, pl_module.split, task, head.describe_target(target), text, score, loss, target)
                )
                self.predictions[task, path] = prediction
