"""The metrics and losses of an evaluation pass, and the choice of the monitor."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from visiontune.errors import UserError
from visiontune.models.heads.base import Head, Prediction
from visiontune.models.heads.extra_metrics import build_metrics
from visiontune.models.heads.metrics import HeadMetrics, Value


class SplitMetrics(nn.Module):
    """Metrics and mean loss of each task, over the images with a label for it.

    Attributes:
        computed: the values of the last pass, by task.
        failures: None: an error in the metrics of a task is raised. A dictionary: it collects these errors by task, and
            the task has only its loss.
    """

    def __init__(self, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.metrics: Mapping[str, HeadMetrics] = nn.ModuleDict(  # type: ignore[assignment]
            {task: build_metrics(head) for task, head in heads.items()}
        )
        self.losses: Mapping[str, MeanMetric] = nn.ModuleDict({task: MeanMetric() for task in heads})  # type: ignore[assignment]
        self.computed: dict[str, dict[str, Value]] = {}
        self.failures: dict[str, Exception] | None = None

    def update(self, task: str, predictions: list[Prediction], losses: Tensor, truth: list[Any]) -> None:
        """
        Args:
            losses: ``(B,)``, of each image.
            truth: targets for the metrics; None for an image without a label.
        """
        labelled = [i for i, target in enumerate(truth) if target is not None]
        with self._collect_failure(task), torch.autocast(losses.device.type, enabled=False):  # bfloat16 has 8 bits
            self.metrics[task].update([predictions[i] for i in labelled], [truth[i] for i in labelled])
        if labelled:
            self.losses[task].update(losses[labelled])

    def compute(self) -> dict[str, dict[str, Value]]:
        """The metrics of each task over all ranks, with `loss`; then reset them."""
        for task, metrics in self.metrics.items():
            values: dict[str, Value] = {}
            if task not in (self.failures or ()):
                with self._collect_failure(task):
                    values = metrics.compute()
            self.computed[task] = values | {"loss": self.losses[task].compute()}
            metrics.reset()
            self.losses[task].reset()
        return self.computed

    @contextmanager
    def _collect_failure(self, task: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the code of a metric may raise any type
            if self.failures is None:
                raise
            self.failures.setdefault(task, error)


def find_directions(heads: Mapping[str, Head]) -> dict[str, str]:
    """The full names of the metrics that can be a monitor, each with "max" or "min"."""
    directions = {f"val/{t}/{name}": best for t, head in heads.items() for name, best in head.directions.items()}
    return directions | ({"val/score": "max"} if len(heads) > 1 else {})


def find_monitor(heads: Mapping[str, Head], monitor: str | None) -> tuple[str, str]:
    """The monitored metric's full name, and "max" or "min".

    Args:
        monitor: "val/TASK/METRIC"; None is "val/score" with several heads, else the head's own monitor.

    Raises:
        UserError: no head computes it, or it has no direction.
    """
    directions = find_directions(heads)
    if monitor is None:
        first, head = next(iter(heads.items()))
        monitor = "val/score" if len(heads) > 1 else f"val/{first}/{head.monitor}"
    if monitor not in directions:
        raise UserError(f"monitor={monitor} cannot decide which epoch is best; write one of {', '.join(directions)}")
    return monitor, directions[monitor]
