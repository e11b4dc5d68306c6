"""What every head gives; the FineTuner, the callbacks and the reports speak to heads through this alone."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from visiontune.data.frames import Frame
from visiontune.errors import UserError
from visiontune.models.features import Features

Raw = dict[str, Any]  # tensors, and plain numbers that all images of a batch have in common
Prediction = dict[str, Tensor]
Probe = tuple[Tensor, list[Any]]  # embeddings (N, D) and the N targets


class HeadMetrics(Protocol):
    """The metrics of one task over one whole split (never a mean over batches), synchronised over ranks."""

    def update(self, predictions: list[Prediction], targets: list[Any]) -> None: ...

    def compute(self) -> dict[str, Tensor]:
        """Scalars by name, and larger tensors (a confusion matrix) that only `Head.figures` reads."""

    def reset(self) -> None: ...


class Head(nn.Module):
    """A task on top of a backbone.

    Built with `features` (the backbone's `FeatureShape`), `info` (the task's `TaskInfo`) and whatever its YAML says.
    No method looks at `self.training`: one backbone pass gives losses and predictions, in any mode.

    Attributes:
        directions: the metrics that can be the monitor (those of one class cannot): is "max" or "min" of it best?
        monitor: the one among them that says which epoch is best.
        graph_batch: can an exported graph take several images at once?
        shared: raw outputs that all images of a batch have in common.
        picked: raw outputs that come of a choice among numbers, and may be others where two are nearly alike.
        bootstrap_samples: how many resamples a bootstrap interval uses; fewer where the metrics take long to compute.
    """

    directions: dict[str, str]
    monitor: str
    graph_batch = True
    shared: tuple[str, ...] = ()
    picked: tuple[str, ...] = ()
    bootstrap_samples = 200

    @abstractmethod
    def forward(self, features: Features) -> Raw:
        """Raw tensors, the same in training and evaluation, exportable."""

    @abstractmethod
    def loss(self, raw: Raw, targets: list[Any]) -> dict[str, Tensor]:
        """Scalars whose sum is minimised, a mean over labelled samples; on the graph even when none is labelled.

        `targets` has one entry a sample, None where this task has no label.
        """

    @abstractmethod
    def sample_loss(self, raw: Raw, targets: list[Any]) -> Tensor:
        """``(B,)``, what `loss` is the mean of; NaN where a sample has no label."""

    def distill(self, raw: Raw, teacher: Self, taught: Raw, temperature: float) -> Tensor:
        """How far `raw` is from what a teacher's head gave for the same images; labels have no part in it.

        Args:
            teacher: of the same class and task; its options and the size of its input may be others.
            taught: its raw outputs, without a gradient.
            temperature: that softens the probabilities of both.

        Returns:
            A scalar, of the size that `loss` has.

        Raises:
            UserError: nothing that the two give can be compared.
        """
        raise UserError(
            f"{type(self).__name__} cannot learn from a teacher: write distill.teacher=null, or give it a `distill`"
        )

    @abstractmethod
    def decode(self, raw: Raw, frames: Sequence[Frame]) -> list[Prediction]:
        """One prediction a sample, its coordinates and masks in pixels of the image that `frames` leads back to."""

    @abstractmethod
    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        """`decode` as an exported graph can hold it: by tensor operations alone, for sizes that may be symbolic.

        All images of the batch have the same frame. Where `graph_batch`, every tensor has the batch first; else the
        batch is one image.
        """

    @abstractmethod
    def metrics(self) -> nn.Module:
        """Fresh `HeadMetrics` of this task. They are updated with predictions and targets in pixels of the image."""

    def score(self, computed: dict[str, Tensor]) -> Tensor:
        """How good a computed metric set is, about 0..1 with 1 the best: what several heads are averaged by."""
        return computed[self.monitor]

    def per_class_scores(self, computed: dict[str, Tensor]) -> dict[str, Tensor]:
        """How good each class is, high is good, by its name; NaN for one that does not occur. Empty without classes."""
        return {}

    def fit_targets(self, targets: list[Any]) -> None:
        """Take what this head has to know of the training split's targets (their scale, say), before training."""

    @abstractmethod
    def describe(self, prediction: Prediction) -> tuple[str, float]:
        """A prediction in words, and its score 0..1 (NaN without one): a cell of predictions.csv."""

    @abstractmethod
    def describe_target(self, target: Any) -> str:
        """A target in words; the empty string for None."""

    @abstractmethod
    def draw(self, image: Tensor, prediction: Prediction | None, target: Any = None) -> Tensor:
        """Truth and prediction on an image: uint8 ``(3, H, W)`` -> uint8 ``(3, H', W')``."""

    def images(self, prediction: Prediction) -> dict[str, Tensor]:
        """A prediction that is itself an image (a mask, a restored image), by name: uint8 ``(1 or 3, H, W)``."""
        return {}

    def figures(self, computed: dict[str, Tensor]) -> dict[str, Figure]:
        """Figures of a computed metric set, by name."""
        return {}

    @property
    def has_probe(self) -> bool:
        """Whether `fit_probe` may do something."""
        return type(self).fit_probe is not Head.fit_probe

    def fit_probe(self, train: Probe, val: Probe) -> str | None:
        """Set this head to the solution of a regularised linear model on the frozen embedding.

        Returns a line for the log, or None where the head has no such solution; it is then unchanged.
        """
        return None


class LossBySample(Head):
    """A head whose loss is one number a sample, and their mean over those with a label."""

    @abstractmethod
    def losses(self, raw: Raw, targets: list[Any]) -> tuple[Tensor, Tensor]:
        """Loss of each sample, 0 without a label, and whether it has a known label or value, both ``(B,)``."""

    def loss(self, raw: Raw, targets: list[Any]) -> dict[str, Tensor]:
        losses, labelled = self.losses(raw, targets)
        return {"loss": losses.sum() / labelled.sum().clamp_min(1)}

    def sample_loss(self, raw: Raw, targets: list[Any]) -> Tensor:
        losses, labelled = self.losses(raw, targets)
        return losses.masked_fill(~labelled, torch.nan)
