"""One label per image."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from visiontune.data.frames import Frame
from visiontune.data.schema import TaskInfo
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads.base import Prediction, Raw
from visiontune.models.heads.describable import Describable
from visiontune.models.heads.distillable import Distillable
from visiontune.models.heads.drawing import caption, confusion_figure
from visiontune.models.heads.embedding import EmbeddingHead
from visiontune.models.heads.losses import build_loss, check_smoothing, check_weights
from visiontune.models.heads.probe import probe
from visiontune.models.heads.probeable import Probe, Probeable
from visiontune.models.heads.soft_targets import kl_distillation_loss

KEY = "heads.classification"


class ClassificationMetrics(MetricCollection):
    """Micro accuracy; macro F1, precision, recall and one-vs-rest AUROC; expected calibration error over 15 bins.

    Macro averages are over the classes that occur in truth or prediction, as in scikit-learn.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(
            {
                "accuracy": MulticlassAccuracy(classes, average="micro"),
                "f1": MulticlassF1Score(classes, average="macro"),
                "precision": MulticlassPrecision(classes, average="macro"),
                "recall": MulticlassRecall(classes, average="macro"),
                "auroc": MulticlassAUROC(classes, average="none"),
                "calibration_error": MulticlassCalibrationError(classes, n_bins=15),
                "confusion_matrix": MulticlassConfusionMatrix(classes),
            }
        )
        self.classes = classes

    def update(self, predictions: list[Prediction], targets: list[int]) -> None:  # type: ignore[override]
        if predictions:
            scores = torch.stack([prediction["scores"] for prediction in predictions]).float()
            super().update(scores, torch.as_tensor(targets, device=scores.device))
        else:  # the exchange between ranks needs tensors of the same form, also from a rank without samples
            auroc = self["auroc"]  # the only metric whose state has a row per sample and a column per class
            empty = torch.empty(0, self.classes, device=auroc.device)
            auroc.update(empty, empty.new_empty(0, dtype=torch.int64))

    def compute(self) -> dict[str, Tensor]:
        matrix = self["confusion_matrix"].compute()
        if not matrix.any():  # no labels in the whole split
            nan = torch.full((), torch.nan, device=matrix.device)
            return {str(name): nan for name in self} | {"confusion_matrix": matrix}
        computed = super().compute()
        support = matrix.sum(1)
        # The AUROC of a class is undefined if no sample, or every sample, is of this class; torchmetrics returns 0.
        computed["auroc"] = computed["auroc"][(support > 0) & (support < support.sum())].mean()
        return computed


class ClassificationHead(EmbeddingHead, Describable, Distillable, Probeable):
    """Linear classifier on the backbone's embedding, with optional dropout and one hidden layer.

    Extra metrics are updated with probabilities ``(N, C)`` and classes ``(N,)``.

    Args:
        features: the backbone's shape; only the width of its embedding matters here.
        info: the class names.
        dropout: 0..1, before the last layer.
        hidden: width of a hidden GELU layer, or None.
        loss: "cross_entropy", "focal" (Lin et al. 2017, https://arxiv.org/abs/1708.02002) or a module, see
            `visiontune.models.heads.losses`.
        gamma: exponent of the focal loss.
        label_smoothing: 0..1 (Szegedy et al. 2016). A loss module trains on the smoothed targets; evaluation calls it
            with the true targets.
        class_weights: one per class, not for a loss module; the loss is the weighted mean, as in `F.cross_entropy`. A
            sample's loss has its weight as a factor, and the loss of a split is the plain mean over the samples.

    Raises:
        UserError: an option is out of range, or a loss module does not accept the head's outputs.
    """

    directions = dict.fromkeys(("accuracy", "f1", "precision", "recall", "auroc"), "max") | dict.fromkeys(
        ("calibration_error", "loss"), "min"
    )
    monitor = "accuracy"

    def __init__(
        self,
        features: FeatureShape,
        info: TaskInfo,
        dropout: float = 0.0,
        hidden: int | None = None,
        loss: str | nn.Module = "cross_entropy",
        gamma: float = 2.0,
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__(features, len(info.classes), dropout, hidden)
        self.classes = list(info.classes)
        count = 3 if len(self.classes) == 2 else 2  # not the number of classes, so that a value per class is refused
        example = F.one_hot(torch.arange(count) % len(self.classes), len(self.classes)).float()
        names = ("cross_entropy", "focal")
        self.loss_module = build_loss(loss, names, f"{KEY}.loss", torch.zeros_like(example), example)
        self.gamma = gamma if loss == "focal" else 0.0
        self.label_smoothing = check_smoothing(label_smoothing, f"{KEY}.label_smoothing")
        weights = check_weights(class_weights, len(self.classes), f"{KEY}.class_weights", self.loss_module)
        self.class_weights: Tensor
        self.register_buffer(
            "class_weights", torch.ones(len(self.classes)) if weights is None else weights, persistent=False
        )

    def forward(self, features: Features) -> Raw:
        return {"logits": self.layers(features)}

    def _probabilities(self, logits: Tensor, targets: list[Any]) -> Tensor:
        """Targets as ``(B, C)``; zeros without a label."""
        probabilities = logits.new_zeros(logits.shape)
        rows = [i for i, target in enumerate(targets) if target is not None]
        if rows:
            labels = [targets[i] for i in rows]
            if isinstance(labels[0], Tensor) and labels[0].ndim == 1:  # probabilities, from mixup or cutmix
                probabilities[rows] = torch.stack(labels).to(probabilities)
            else:
                one_hot = F.one_hot(torch.as_tensor(labels, device=logits.device), len(self.classes))
                probabilities[rows] = one_hot.to(probabilities)
        return probabilities

    def _smooth(self, target: Tensor) -> Tensor:
        smooth = self.label_smoothing / len(self.classes)
        return target * (1 - self.label_smoothing) + smooth * (target.sum(1, keepdim=True) > 0)

    def _losses(self, logits: Tensor, targets: list[Any]) -> tuple[Tensor, Tensor]:
        """Loss and weight of each sample, both ``(B,)``; weight 0 without a label."""
        target = self._probabilities(logits, targets)
        weight = (target * self.class_weights).sum(1)
        target = self._smooth(target)
        log_p = F.log_softmax(logits, 1)
        focus = (1 - log_p.exp()) ** self.gamma if self.gamma else 1.0
        return -(target * self.class_weights * focus * log_p).sum(1), weight

    def loss(self, raw: Raw, targets: list[Any]) -> dict[str, Tensor]:
        logits = raw["logits"].float()
        if self.loss_module is not None:
            smoothed = self._smooth(self._probabilities(logits, targets))
            return {"loss": self.loss_module.batch_loss(logits, smoothed, _labelled(logits, targets))}
        losses, weight = self._losses(logits, targets)
        return {"loss": losses.sum() / weight.sum().clamp_min(1e-12)}

    def sample_loss(self, raw: Raw, targets: list[Any]) -> Tensor:
        logits, labelled = raw["logits"].float(), _labelled(raw["logits"], targets)
        if self.loss_module is not None:
            return self.loss_module.sample_losses(logits, self._probabilities(logits, targets), labelled)
        return self._losses(logits, targets)[0].masked_fill(~labelled, torch.nan)

    def distill(self, raw: Raw, teacher: Self, teacher_outputs: Raw, temperature: float) -> Tensor:
        return kl_distillation_loss(raw["logits"], teacher_outputs["logits"], temperature)

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        """`scores` ``(B, C)``, softmax probabilities."""
        return {"scores": raw["logits"].float().softmax(1)}

    def metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics(len(self.classes))

    def metric_inputs(self, predictions: list[Prediction], targets: list[Any]) -> Iterable[tuple[Tensor, Tensor]]:
        scores = torch.stack([prediction["scores"] for prediction in predictions]).float()
        yield scores, torch.as_tensor(targets, device=scores.device)

    def per_class_scores(self, computed: Mapping[str, Any]) -> dict[str, Tensor]:
        """Recall: the accuracy on the images of the class."""
        matrix = computed["confusion_matrix"].float()
        return dict(zip(self.classes, matrix.diag() / matrix.sum(1), strict=True))  # 0 / 0 is NaN

    def describe(self, prediction: Prediction) -> tuple[str, float]:
        score, label = prediction["scores"].max(0)
        return self.classes[int(label)], float(score)

    def describe_target(self, target: Any) -> str:
        return "" if target is None else self.classes[int(target)]

    def draw(self, image: Tensor, prediction: Prediction | None, target: Any = None) -> Tensor:
        lines = []
        if prediction is not None:
            name, score = self.describe(prediction)
            lines.append(f"{name} {score:.0%}")
        if target is not None:
            lines.append(f"truth: {self.describe_target(target)}")
        wrong = prediction is not None and target is not None and int(prediction["scores"].argmax()) != int(target)
        return caption(image, lines, bad=wrong)

    def figures(self, computed: Mapping[str, Any]) -> dict[str, Figure]:
        return {"confusion_matrix": confusion_figure(computed["confusion_matrix"], self.classes)}

    @torch.no_grad()
    def fit_probe(self, train: Probe, val: Probe) -> str | None:
        """Logistic regression with the penalty that is best on val; None with a hidden layer."""
        if self.hidden is not None:
            return None
        (x, y), (x_val, y_val) = (_labelled_embeddings(*split) for split in (train, val))
        if not len(y) or not len(y_val):
            return None
        fit = probe(x, y, x_val, y_val, len(self.classes), self.label_smoothing)
        self.linear.weight.copy_(fit.weight)
        self.linear.bias.copy_(fit.bias)
        return (
            f"logistic regression on {len(y)} embeddings, penalty {fit.penalty:g}, "
            f"accuracy on val {fit.val_accuracy:.3f}"
        )


def _labelled(logits: Tensor, targets: list[Any]) -> Tensor:
    return torch.tensor([target is not None for target in targets], device=logits.device)


def _labelled_embeddings(embeddings: Tensor, targets: list[Any]) -> tuple[Tensor, Tensor]:
    rows = [i for i, target in enumerate(targets) if target is not None]
    return embeddings[rows].float(), torch.tensor([int(targets[i]) for i in rows], device=embeddings.device)
