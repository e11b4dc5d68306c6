"""Bootstrap intervals of metrics, from random samples of a split's images (Efron 1979)."""

import math
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch

from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.extra_metrics import build_metrics
from visiontune.models.heads.metric_states import States, merge_states, read_states


@dataclass(frozen=True)
class Estimate:
    """A metric on the whole split, and its 95% interval over the bootstrap samples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class BootstrapMetrics:
    """The metrics of one model on one split.

    Attributes:
        values: on the whole split, by `TASK/METRIC` (or `score`).
        samples: on each bootstrap sample, ``(samples,)``, by the same names.
        classes: scores by `TASK: CLASS`, see `Head.per_class_scores`.
    """

    values: dict[str, float]
    samples: dict[str, np.ndarray]
    classes: dict[str, float]

    def estimate(self, name: str) -> Estimate:
        """The metric with its interval."""
        return _estimate(self.values[name], self.samples[name])

    def change(self, other: "BootstrapMetrics", name: str) -> Estimate:
        """The difference to `other`. Both use the same samples of images, so their noise cancels out."""
        return _estimate(self.values[name] - other.values[name], self.samples[name] - other.samples[name])


class MetricStates(L.Callback):
    """Stores the state of each task's metrics for each image, so that they can be computed on any sample of images.

    A state is a few numbers (counts, scores, a confusion matrix); predictions may be whole masks.
    """

    def __init__(self) -> None:
        self.states: dict[str, list[States | None]] = {}  # None where the image has no label of the task
        self.losses: dict[str, list[float]] = {}

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for task, predictions in outputs["predictions"].items():
            states = self.states.setdefault(task, [])
            self.losses.setdefault(task, []).extend(outputs["losses"][task].tolist())
            for prediction, truth, target in zip(
                predictions, batch["truth"][task], batch["targets"][task], strict=True
            ):
                if target is None:
                    states.append(None)
                    continue
                metrics: Any = build_metrics(pl_module.heads[task]).to(pl_module.device)
                metrics.update([prediction], [truth])
                states.append(read_states(metrics))

    def bootstrap_metrics(self, model: FineTuner, seed: int = 0) -> BootstrapMetrics:
        """Metrics on all images, and on `Head.bootstrap_samples` samples of as many images, drawn with replacement."""
        count = len(next(iter(self.states.values())))
        sample_count = min(head.bootstrap_samples for head in model.heads.values())
        generator = np.random.default_rng(seed)
        values, classes = self._compute(model, np.arange(count))
        samples = [self._compute(model, generator.integers(0, count, count))[0] for _ in range(sample_count)]
        return BootstrapMetrics(
            values, {name: np.array([sample[name] for sample in samples]) for name in values}, classes
        )

    def _compute(self, model: FineTuner, indices: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
        """The metrics, and the scores by class, on the images with these indices."""
        values: dict[str, float] = {}
        classes: dict[str, float] = {}
        scores = []
        for task, head in model.heads.items():
            states = [state for i in indices if (state := self.states[task][i]) is not None]
            computed = _load_states(build_metrics(head), states).compute()
            computed["loss"] = torch.tensor(self.losses[task])[indices].nanmean()
            # Without labelled images there is no value, whatever the metrics compute.
            scores.append(float(head.score(computed)) if states else math.nan)
            task_values = {f"{task}/{name}": float(computed[name]) for name in head.directions if name in computed}
            values |= task_values if states else dict.fromkeys(task_values, math.nan)
            classes |= {f"{task}: {name}": float(value) for name, value in head.per_class_scores(computed).items()}
        return (values if len(scores) == 1 else values | {"score": float(np.mean(scores))}), classes


def _load_states(metrics: Any, states: list[States]) -> Any:
    """Load the states of images into `metrics`, merged as torchmetrics merges ranks."""
    if states:
        merge_states(metrics, states)
    else:
        metrics.update([], [])
    return metrics.cpu()


def _estimate(value: float, samples: np.ndarray) -> Estimate:
    low, high = np.nanquantile(samples, (0.025, 0.975)) if not np.isnan(samples).all() else (np.nan, np.nan)
    return Estimate(value, float(low), float(high))
