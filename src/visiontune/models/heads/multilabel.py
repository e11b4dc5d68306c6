"""Any number of labels an image."""

import warnings
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    multilabel_average_precision,
    multilabel_exact_match,
    multilabel_stat_scores,
)
from torchmetrics.utilities import dim_zero_cat
from torchvision.ops import sigmoid_focal_loss

from visiontune.data.frames import Frame
from visiontune.data.schema import TaskInfo
from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads.base import LossBySample, Prediction, Probe, Raw
from visiontune.models.heads.drawing import caption
from visiontune.models.heads.embedding import EmbeddingHead
from visiontune.models.heads.probe import probe_labels
from visiontune.models.heads.soft_targets import labels_apart

GAMMA = {"bce": 0.0, "focal": 2.0, "asymmetric": 4.0}
UNKNOWN = -1


class MultilabelMetrics(Metric):
    """Average precision, F1 at the threshold, and the share of samples with every known label right.

    NaN in a truth is an unknown label and left out. A label without a positive sample has no AP, and one that occurs
    neither in truth nor in prediction no F1 (both NaN); the macro means are over the others.
    """

    full_state_update = False
    scores: list[Tensor]
    truth: list[Tensor]

    def __init__(self, classes: Sequence[str], threshold: float) -> None:
        super().__init__()
        self.classes, self.threshold = list(classes), threshold
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("truth", [], dist_reduce_fx="cat")

    def update(self, predictions: list[Prediction], targets: list[Tensor]) -> None:
        # Also without samples: a process that has none takes part in the exchange with an empty tensor.
        none = torch.empty(0, len(self.classes), device=self.device)
        self.scores.append(torch.cat([none, *(prediction["scores"][None].to(none) for prediction in predictions)]))
        self.truth.append(torch.cat([none, *(target[None].to(none) for target in targets)]))

    def compute(self) -> dict[str, Tensor]:
        truth, scores = dim_zero_cat(self.truth), dim_zero_cat(self.scores)
        labelled = ~truth.isnan().all(1)
        truth, scores = truth[labelled], scores[labelled]
        known: Any = {
            "preds": scores,
            "target": truth.nan_to_num(UNKNOWN).long(),
            "num_labels": len(self.classes),
            "ignore_index": UNKNOWN,
            "validate_args": False,
        }
        if not len(truth):
            empty = torch.full((len(self.classes),), torch.nan, device=self.device)
            return self._named(empty, empty, empty[0], empty[0])
        counts = multilabel_stat_scores(**known, threshold=self.threshold, average="none")
        right, wrong, _, missed, positives = counts.unbind(1)
        with warnings.catch_warnings():  # of labels without positives, which are NaN here
            warnings.simplefilter("ignore", UserWarning)
            ap = multilabel_average_precision(**known, average="none").masked_fill(positives == 0, torch.nan)
        f1 = 2 * right / (2 * right + wrong + missed)  # 0 / 0 is NaN
        micro = 2 * right.sum() / (2 * right + wrong + missed).sum()
        return self._named(ap, f1, micro, multilabel_exact_match(**known, threshold=self.threshold))

    def _named(self, ap: Tensor, f1: Tensor, micro: Tensor, exact: Tensor) -> dict[str, Tensor]:
        return {
            "map": ap.nanmean(),
            "f1": f1.nanmean(),
            "f1_micro": micro,
            "accuracy": exact,
            **{f"ap/{name}": value for name, value in zip(self.classes, ap, strict=True)},
            **{f"f1/{name}": value for name, value in zip(self.classes, f1, strict=True)},
        }


class MultilabelHead(LossBySample, EmbeddingHead):
    """A sigmoid a label on the backbone's embedding.

    A target is ``(C,)`` of 0 and 1 (or between, mixed); NaN is an unknown label, which no loss and no metric sees.

    Args:
        dropout: 0..1, before the last layer.
        hidden: width of a hidden GELU layer, or None.
        loss: "bce", "focal" (Lin et al. 2017, https://arxiv.org/abs/1708.02002) or "asymmetric" (Ridnik et al. 2021,
            https://arxiv.org/abs/2009.14119). Each is the mean over a sample's known labels.
        gamma: exponent of the focal loss (None: 2), or of the asymmetric one for absent labels (None: 4; for present
            ones it is 1, as in its authors' code).
        margin: probability up to which an absent label costs nothing in the asymmetric loss.
        pos_weight: one a label, how much more its presence counts than its absence; for bce.
        label_smoothing: 0..1 of the way from every target to one half.
        threshold: 0..1; labels with a higher score are predicted.

    Raises:
        UserError: an option without meaning.
    """

    directions = dict.fromkeys(("map", "f1", "f1_micro", "accuracy"), "max") | {"loss": "min"}
    monitor = "map"

    def __init__(
        self,
        features: FeatureShape,
        info: TaskInfo,
        dropout: float = 0.0,
        hidden: int | None = None,
        loss: str = "bce",
        gamma: float | None = None,
        margin: float = 0.05,
        pos_weight: list[float] | None = None,
        label_smoothing: float = 0.0,
        threshold: float = 0.5,
    ) -> None:
        super().__init__(features, len(info.classes), dropout, hidden)
        self.classes = list(info.classes)
        if loss not in GAMMA:
            raise UserError(f"loss={loss} of a multilabel head: write one of {', '.join(GAMMA)}")
        if pos_weight is not None and loss != "bce":
            raise UserError(f"pos_weight is for loss=bce, not for loss={loss}; write pos_weight=null")
        if pos_weight is not None and len(pos_weight) != len(self.classes):
            raise UserError(f"pos_weight has {len(pos_weight)} numbers for {len(self.classes)} labels")
        if not 0 < threshold < 1:
            raise UserError(f"threshold={threshold} of a multilabel head: between 0 and 1, e.g. threshold=0.5")
        self.kind, self.margin = loss, margin
        self.gamma = GAMMA[loss] if gamma is None else gamma
        self.label_smoothing, self.threshold = label_smoothing, threshold
        self.pos_weight: Tensor | None
        weights = None if pos_weight is None else torch.tensor(pos_weight).float()
        self.register_buffer("pos_weight", weights, persistent=False)

    def forward(self, features: Features) -> Raw:
        return {"logits": self.layers(features)}

    def _elements(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of every label ``(B, C)``."""
        target = target * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        if self.kind == "focal":
            return sigmoid_focal_loss(logits, target, alpha=-1, gamma=self.gamma)
        if self.kind == "bce":
            return F.binary_cross_entropy_with_logits(logits, target, pos_weight=self.pos_weight, reduction="none")
        shifted = (logits.sigmoid() - self.margin).clamp(0, 1 - 1e-6)
        present = -F.logsigmoid(logits) * (-logits).sigmoid()
        return target * present - (1 - target) * shifted**self.gamma * torch.log1p(-shifted)

    def losses(self, raw: Raw, targets: list[Any]) -> tuple[Tensor, Tensor]:
        logits = raw["logits"].float()
        target = torch.full_like(logits, torch.nan)
        for i, labels in enumerate(targets):
            if labels is not None:
                target[i] = labels
        known = ~target.isnan()
        elements = self._elements(logits, target.nan_to_num(0.0)) * known
        return elements.sum(1) / known.sum(1).clamp_min(1), known.any(1)

    def distill(self, raw: Raw, teacher: Self, taught: Raw, temperature: float) -> Tensor:
        return labels_apart(raw["logits"], taught["logits"], temperature)

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        """`scores` ``(B, C)``, a probability a label."""
        return {"scores": raw["logits"].float().sigmoid()}

    def metrics(self) -> MultilabelMetrics:
        return MultilabelMetrics(self.classes, self.threshold)

    def per_class_scores(self, computed: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: computed[f"ap/{name}"] for name in self.classes}

    def describe(self, prediction: Prediction) -> tuple[str, float]:
        """The labels above the threshold, best first, and the highest score of all."""
        scores = prediction["scores"]
        chosen = [int(i) for i in scores.argsort(descending=True) if scores[i] > self.threshold]
        return ", ".join(f"{self.classes[i]} {float(scores[i]):.0%}" for i in chosen) or "none", float(scores.max())

    def describe_target(self, target: Any) -> str:
        if target is None:
            return ""
        names = [
            name if value == 1 else f"{name}?"
            for name, value in zip(self.classes, target.tolist(), strict=True)
            if value != 0
        ]
        return ", ".join(names) or "none"

    def draw(self, image: Tensor, prediction: Prediction | None, target: Any = None) -> Tensor:
        lines = [] if prediction is None else [self.describe(prediction)[0]]
        if target is not None:
            lines.append(f"truth: {self.describe_target(target)}")
        wrong = False
        if prediction is not None and target is not None:
            found, truth = prediction["scores"].cpu() > self.threshold, target.cpu()
            wrong = bool((found != (truth > 0.5))[~truth.isnan()].any())
        return caption(image, lines, bad=wrong)

    @torch.no_grad()
    def fit_probe(self, train: Probe, val: Probe) -> str | None:
        """One logistic regression a label, their penalty chosen on val; None with a hidden layer."""
        (x, y), (x_val, y_val) = (_labelled(*part) for part in (train, val))
        if self.hidden is not None or not len(y) or not len(y_val):
            return None
        fit = probe_labels(x, y, x_val, y_val, self.label_smoothing, self.pos_weight)
        self.linear.weight.copy_(fit.weight)
        self.linear.bias.copy_(fit.bias)
        return (
            f"logistic regressions on {len(y)} embeddings, penalty {fit.penalty:g}, "
            f"{fit.val_accuracy:.3f} of the labels on val right"
        )


def _labelled(embeddings: Tensor, targets: list[Any]) -> tuple[Tensor, Tensor]:
    rows = [i for i, t in enumerate(targets) if t is not None]
    x = embeddings[rows].float()
    return x, torch.stack([targets[i] for i in rows]).to(x) if rows else x.new_zeros(0, 1)
