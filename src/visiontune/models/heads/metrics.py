"""The values that the metrics of a head compute: numbers, and numbers per class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor
from torchmetrics import Metric


class PerClass(NamedTuple):
    """A metric with a value per class, logged as `SPLIT/TASK/METRIC/CLASS`."""

    metric: str
    classes: tuple[str, ...]
    values: Tensor  # (classes,), NaN for a class without data

    def as_dict(self) -> dict[str, Tensor]:
        values = self.values.reshape(-1)  # torchmetrics computes a scalar for a single class
        return dict(zip(self.classes, values, strict=True))


Value = Tensor | PerClass


class HeadMetrics(Protocol):
    """The metrics of one task over a whole split (never a mean over batches), synchronised over ranks."""

    def update(self, predictions: list[dict[str, Tensor]], targets: list[Any]) -> None: ...

    def compute(self) -> dict[str, Value]:
        """Scalars and `PerClass` values, which are logged, and larger tensors (a confusion matrix) for figures."""

    def reset(self) -> None: ...


def name_scalars(computed: Mapping[str, Value]) -> dict[str, Tensor]:
    """All numbers of the computed metrics by name, such as `accuracy` or `iou/road`."""
    scalars: dict[str, Tensor] = {}
    for name, value in computed.items():
        if isinstance(value, PerClass):
            scalars |= {f"{value.metric}/{label}": number for label, number in value.as_dict().items()}
        elif value.numel() == 1:
            scalars[name] = value
    return scalars


@dataclass(frozen=True)
class ExtraMetric:
    """A torchmetrics metric from the config.

    Attributes:
        metric: never updated; each evaluation updates a copy.
        direction: "max" or "min"; None if it cannot be the monitor.
        classes: class names, for a metric with one value per class.
    """

    metric: Metric
    direction: str | None = None
    classes: tuple[str, ...] = ()
