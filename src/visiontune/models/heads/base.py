"""The base class of heads, through which the FineTuner, the callbacks and the reports use them.

A head may also implement these interfaces, one file each:

- `Describable`: predictions in words and images, for predictions.csv, `predict` and the report;
- `Exportable`: decoding inside an exported graph;
- `Distillable`: learning from a teacher;
- `Probeable`: starting from a linear model of the frozen embedding.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from visiontune.data.frames import Frame
from visiontune.errors import UserError
from visiontune.models.features import Features
from visiontune.models.heads.class_rows import ClassRows
from visiontune.models.heads.metrics import ExtraMetric, Value

Raw = dict[str, Any]  # tensors, and plain numbers that all images of a batch share
Prediction = dict[str, Tensor]


class Head(nn.Module, ABC):
    """A task on top of a backbone.

    It is built with `features` (the backbone's `FeatureShape`), `info` (the task's `TaskInfo`) and the options of its
    YAML. No method reads `self.training`: one backbone pass gives losses and predictions, in any mode.

    Attributes:
        directions: the metrics that can be the monitor, each with "max" or "min", whichever is better.
        monitor: the metric that decides which epoch is best, unless the config names another.
        metric_arguments: defaults for constructors of extra metrics, such as `ignore_index`.
        bootstrap_samples: number of samples of a bootstrap interval; lower it for metrics that are slow to compute.
        min_batch_size: smallest number of images that the head can train with.
        float16: whether the head can train in float16 (trainer.precision=16-mixed).
        extra_metrics: those of the config, by name; see `add_metrics`.
        scaled_options: options whose layers have a width that follows that of a backbone's map, such as `decoder=fcn`.
            A narrower backbone would change these layers, so it cannot be pruned with them.
        is_pretrained: whether the layers that do not depend on classes begin from weights.
        query_groups: parameters whose rows are learned queries, by name -> number of groups of queries, one after
            another. Weights of another number of queries fill the first ones of each group.
    """

    directions: Mapping[str, str]
    monitor: str
    metric_arguments: Mapping[str, Any] = {}
    bootstrap_samples = 200
    min_batch_size = 1
    float16 = True
    extra_metrics: Mapping[str, ExtraMetric] = {}
    scaled_options: Sequence[str] = ()
    is_pretrained = False
    query_groups: Mapping[str, int] = {}

    @abstractmethod
    def forward(self, features: Features) -> Raw:
        """Raw tensors, the same in training and evaluation, exportable."""

    @abstractmethod
    def loss(self, raw: Raw, targets: list[Any]) -> dict[str, Tensor]:
        """Scalars whose sum is minimised: means over the labelled samples, on the graph even without labelled samples.

        Args:
            targets: one per sample; None if the sample has no label for this task.
        """

    @abstractmethod
    def sample_loss(self, raw: Raw, targets: list[Any]) -> Tensor:
        """The loss of each sample, ``(B,)``; NaN for a sample without a label."""

    @abstractmethod
    def decode(self, raw: Raw, frames: Sequence[Frame]) -> list[Prediction]:
        """One prediction per sample, with coordinates and masks in pixels of the original image (see `Frame`)."""

    @abstractmethod
    def metrics(self) -> nn.Module:
        """New `HeadMetrics` of this task, updated with predictions and targets in pixels of the original image."""

    def metric_inputs(self, predictions: list[Prediction], targets: list[Any]) -> Iterable[tuple[Any, Any]]:
        """The arguments `(preds, target)` of each call of `update` of the extra metrics.

        Raises:
            UserError: this head does not implement it.
        """
        raise UserError(
            f"{type(self).__name__} has no `metric_inputs`, which extra metrics need: write heads.TASK.metrics=null, "
            'or add e.g. `def metric_inputs(self, predictions, targets): yield torch.stack([p["value"] for p in '
            "predictions]), torch.tensor(targets)`"
        )

    def add_metrics(self, metrics: Mapping[str, ExtraMetric], key: str = "metrics") -> None:
        """Compute these metrics in addition to those of the head; metrics with a direction can be the monitor.

        Args:
            key: the config key, for messages.

        Raises:
            UserError: the head already has a metric of this name.
        """
        for name in metrics:
            if name in self.directions:
                raise UserError(
                    f"{key}.{name}: this head already computes {name}; write another name, such as {key}.my_{name}"
                )
        self.extra_metrics = {**self.extra_metrics, **metrics}
        monitors = {name: metric.direction for name, metric in metrics.items() if metric.direction is not None}
        self.directions = {**self.directions, **monitors}

    def score(self, computed: Mapping[str, Any]) -> Tensor:
        """One number for the computed metrics, about 0..1, 1 is best; the score of several heads is their mean."""
        return computed[self.monitor]

    def per_class_scores(self, computed: Mapping[str, Value]) -> dict[str, Tensor]:
        """Score of each class by name, higher is better; NaN for a class that does not occur. Empty without classes."""
        return {}

    def class_rows(self) -> dict[str, ClassRows]:
        """Parameters of this head with rows for each class, by name; the rows of known classes can be pretrained."""
        return {}

    def data_notes(self, labels: Iterable[Sequence[int]], key: str) -> list[str]:
        """Lines of the plan about data that the head's options do not suit.

        Args:
            labels: the class labels of each image, none for an image without a label.
            key: of the head in the config, for the messages.
        """
        return []

    def fit_targets(self, targets: list[Any]) -> None:
        """Compute what the head needs from the training targets, such as their scale; called before the training."""
