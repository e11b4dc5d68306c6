"""What an evaluation pass adds up, and which of it says what is best."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from visiontune.errors import UserError
from visiontune.models.heads import Head, HeadMetrics
from visiontune.models.heads.base import Prediction


class Scores(nn.Module):
    """Metrics and mean loss of each task, over the images that are labelled for it.

    Attributes:
        computed: of the last pass, by task.
    """

    def __init__(self, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.metrics: Mapping[str, HeadMetrics] = nn.ModuleDict(  # type: ignore[assignment]
            {task: head.metrics() for task, head in heads.items()}
        )
        self.losses: Mapping[str, MeanMetric] = nn.ModuleDict({task: MeanMetric() for task in heads})  # type: ignore[assignment]
        self.computed: dict[str, dict[str, Tensor]] = {}

    def update(self, task: str, predictions: list[Prediction], losses: Tensor, truth: list[Any]) -> None:
        """
        Args:
            losses: ``(B,)``, of each image.
            truth: as the metrics take it; None for an image without a label.
        """
        labelled = [i for i, target in enumerate(truth) if target is not None]
        with torch.autocast(losses.device.type, enabled=False):  # a metric is no place for 8 bits
            self.metrics[task].update([predictions[i] for i in labelled], [truth[i] for i in labelled])
        if labelled:
            self.losses[task].update(losses[labelled])

    def compute(self) -> dict[str, dict[str, Tensor]]:
        """By task its metrics, `loss` among them, of all ranks; the next pass begins anew."""
        for task, metrics in self.metrics.items():
            self.computed[task] = metrics.compute() | {"loss": self.losses[task].compute()}
            metrics.reset()
            self.losses[task].reset()
        return self.computed


def monitored(heads: Mapping[str, Head], monitor: str | None) -> tuple[str, str]:
    """The monitored metric's full name, and "max" or "min"; see `FineTuner`.

    Raises:
        UserError: no head gives it.
    """
    directions = {f"val/{t}/{name}": best for t, head in heads.items() for name, best in head.directions.items()}
    if len(heads) > 1:
        directions["val/score"] = "max"
    if monitor is None:
        first, head = next(iter(heads.items()))
        monitor = "val/score" if len(heads) > 1 else f"val/{first}/{head.monitor}"
    if monitor not in directions:
        raise UserError(f"monitor={monitor} cannot say which epoch is best; write one of {', '.join(directions)}")
    return monitor, directions[monitor]
