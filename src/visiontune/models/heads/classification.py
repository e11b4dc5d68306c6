"""One label an image."""

from typing import Any, Self

import torch
from matplotlib.figure import Figure
from torch import Tensor
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
from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads.base import Prediction, Probe, Raw
from visiontune.models.heads.drawing import caption, confusion_figure
from visiontune.models.heads.embedding import EmbeddingHead
from visiontune.models.heads.probe import probe
from visiontune.models.heads.soft_targets import kl_distillation_loss


class ClassificationMetrics(MetricCollection):
    """Micro accuracy; macro F1, precision, recall and one-vs-rest AUROC; expected calibration error over 15 bins.

    Macro averages are over the classes that occur in truth or prediction, as scikit-learn's.
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
        else:  # a process without samples takes part in the exchange with tensors of the same form
            auroc = self["auroc"]  # the only one that keeps a matrix
            none = torch.empty(0, self.classes, device=auroc.device)
            auroc.update(none, none.new_empty(0, dtype=torch.int64))

    def compute(self) -> dict[str, Tensor]:
        matrix = self["confusion_matrix"].compute()
        if not matrix.any():  # no labels in the whole split
            nothing = torch.full((), torch.nan, device=matrix.device)
            return {str(name): nothing for name in self} | {"confusion_matrix": matrix}
        found = super().compute()
        support = matrix.sum(1)
        # Without samples of a class, or of any other, torchmetrics gives 0, which is no area of anything.
        found["auroc"] = found["auroc"][(support > 0) & (support < support.sum())].mean()
        return found


class ClassificationHead(EmbeddingHead):
    """Linear classifier on the backbone's embedding, with optional dropout and one hidden layer.

    Args:
        features: the backbone's; only the width of its embedding matters here.
        info: the class names.
        dropout: 0..1, before the last layer.
        hidden: width of a hidden GELU layer, or None.
        loss: "cross_entropy" or "focal" (Lin et al. 2017, https://arxiv.org/abs/1708.02002).
        gamma: exponent of the focal loss.
        label_smoothing: 0..1 (Szegedy et al. 2016).
        class_weights: one a class; the loss is then the weighted mean, as in `F.cross_entropy`. A sample's loss has its
            weight as a factor, and evaluation gives the plain mean of those.
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
        loss: str = "cross_entropy",
        gamma: float = 2.0,
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__(features, len(info.classes), dropout, hidden)
        if loss not in ("cross_entropy", "focal"):
            raise UserError(f"loss={loss!r} of a classification head: write cross_entropy or focal")
        if class_weights is not None and len(class_weights) != len(info.classes):
            raise UserError(f"class_weights has {len(class_weights)} numbers for {len(info.classes)} classes")
        self.classes = list(info.classes)
        self.gamma = gamma if loss == "focal" else 0.0
        self.label_smoothing = label_smoothing
        weights = torch.ones(len(self.classes)) if class_weights is None else torch.tensor(class_weights).float()
        self.class_weights: Tensor
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, features: Features) -> Raw:
        return {"logits": self.layers(features)}

    def _losses(self, raw: Raw, targets: list[Any]) -> tuple[Tensor, Tensor]:
        """Loss and weight of each sample, both ``(B,)``; weight 0 without a label."""
        logits = raw["logits"].float()
        target = logits.new_zeros(logits.shape)
        rows = [i for i, t in enumerate(targets) if t is not None]
        if rows:
            given = [targets[i] for i in rows]
            if isinstance(given[0], Tensor) and given[0].ndim == 1:  # soft, from mixup or cutmix
                target[rows] = torch.stack(given).to(target)
            else:
                target[rows] = F.one_hot(torch.as_tensor(given, device=logits.device), len(self.classes)).to(target)
        weight = (target * self.class_weights).sum(1)
        smooth = self.label_smoothing / len(self.classes)
        target = target * (1 - self.label_smoothing) + smooth * (target.sum(1, keepdim=True) > 0)
        log_p = F.log_softmax(logits, 1)
        focus = (1 - log_p.exp()) ** self.gamma if self.gamma else 1.0
        return -(target * self.class_weights * focus * log_p).sum(1), weight

    def loss(self, raw: Raw, targets: list[Any]) -> dict[str, Tensor]:
        losses, weight = self._losses(raw, targets)
        return {"loss": losses.sum() / weight.sum().clamp_min(1e-12)}

    def sample_loss(self, raw: Raw, targets: list[Any]) -> Tensor:
        losses, _ = self._losses(raw, targets)
        labelled = torch.tensor([t is not None for t in targets], device=losses.device)
        return losses.masked_fill(~labelled, torch.nan)

    def distill(self, raw: Raw, teacher: Self, taught: Raw, temperature: float) -> Tensor:
        return kl_distillation_loss(raw["logits"], taught["logits"], temperature)

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        """`scores` ``(B, C)``, softmax probabilities."""
        return {"scores": raw["logits"].float().softmax(1)}

    def metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics(len(self.classes))

    def per_class_scores(self, computed: dict[str, Tensor]) -> dict[str, Tensor]:
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

    def figures(self, computed: dict[str, Tensor]) -> dict[str, Figure]:
        return {"confusion_matrix": confusion_figure(computed["confusion_matrix"], self.classes)}

    @torch.no_grad()
    def fit_probe(self, train: Probe, val: Probe) -> str | None:
        """Logistic regression with its penalty chosen on val; None with a hidden layer, which has no closed probe."""
        if self.hidden is not None:
            return None
        (x, y), (x_val, y_val) = (self._labelled(*part) for part in (train, val))
        if not len(y) or not len(y_val):
            return None
        fit = probe(x, y, x_val, y_val, len(self.classes), self.label_smoothing)
        self.linear.weight.copy_(fit.weight)
        self.linear.bias.copy_(fit.bias)
        return (
            f"logistic regression on {len(y)} embeddings, penalty {fit.penalty:g}, "
            f"accuracy on val {fit.val_accuracy:.3f}"
        )

    @staticmethod
    def _labelled(embeddings: Tensor, targets: list[Any]) -> tuple[Tensor, Tensor]:
        rows = [i for i, t in enumerate(targets) if t is not None]
        return embeddings[rows].float(), torch.tensor([int(targets[i]) for i in rows], device=embeddings.device)
