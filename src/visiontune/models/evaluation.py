"""The computations of an evaluation pass: losses and metrics of each batch, scalars of the whole split."""

from collections.abc import Mapping
from typing import Any

import torch

from visiontune.data.batch import Batch
from visiontune.models.heads import Head
from visiontune.models.heads.base import Prediction, Raw
from visiontune.models.heads.metrics import name_scalars
from visiontune.models.split_metrics import SplitMetrics

Outputs = dict[str, tuple[Raw, list[Prediction]]]


def evaluate_batch(outputs: Outputs, heads: Mapping[str, Head], batch: Batch, scores: SplitMetrics) -> dict[str, Any]:
    """Update `scores` with a batch.

    Returns:
        `predictions` and `losses` ``(B,)`` by task.
    """
    predictions, losses = {}, {}
    for task, (raw, task_predictions) in outputs.items():
        predictions[task] = task_predictions
        losses[task] = heads[task].sample_loss(raw, batch["targets"][task])
        scores.update(task, task_predictions, losses[task], batch["truth"][task])
    return {"predictions": predictions, "losses": losses}


def log_metrics(model: Any, split: str) -> None:
    """Log the FineTuner's losses and metrics of a whole split as `SPLIT/TASK/METRIC`, and reset its `scores`.

    `SPLIT/loss` is the weighted sum of the tasks' losses; with several heads `SPLIT/score` is the mean of their scores.
    """
    computed = model.scores.compute()
    for task, metrics in computed.items():
        model.log_dict({f"{split}/{task}/{name}": v.float() for name, v in name_scalars(metrics).items()})
    losses = {task: metrics["loss"] for task, metrics in computed.items()}
    model.log(f"{split}/loss", model.loss_weights(losses, list(losses)), prog_bar=split == "val")
    if len(model.heads) > 1 and not model.scores.failures:
        scores = [head.score(computed[task]).float().to(model.device) for task, head in model.heads.items()]
        model.log(f"{split}/score", torch.stack(scores).mean())
