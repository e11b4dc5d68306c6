"""Any number of labels per image."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
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
from visiontune.models.heads.base import Prediction, Raw
from visiontune.models.heads.describable import Describable
from visiontune.models.heads.distillable import Distillable
from visiontune.models.heads.drawing import caption
from visiontune.models.heads.element_loss import ElementLossHead
from visiontune.models.heads.embedding import EmbeddingHead
from visiontune.models.heads.losses import build_loss, check_smoothing, check_weights
from visiontune.models.heads.metrics import PerClass, Value
from visiontune.models.heads.probe import probe_labels
from visiontune.models.heads.probeable import Probe, Probeable
from visiontune.models.heads.soft_targets import binary_distillation_loss

KEY = "heads.multilabel"
GAMMA = {"bce": 0.0, "focal": 2.0, "asymmetric": 4.0}  # default exponent of each loss
UNKNOWN = -1


class MultilabelMetrics(Metric):
    """Average precision, F1 at the threshold, and the share of samples whose known labels are all correct.

    NaN in a truth is an unknown label and is left out. A label without a positive sample has no AP. A label that occurs
    neither in truth nor in prediction has no F1. Both are NaN then, and the macro means are over the other labels.
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
        # Also without samples: the exchange between ranks needs a tensor of every rank.
        empty = torch.empty(0, len(self.classes), device=self.device)
        self.scores.append(torch.cat([empty, *(prediction["scores"][None].to(empty) for prediction in predictions)]))
        self.truth.append(torch.cat([empty, *(target[None].to(empty) for target in targets)]))

    def compute(self) -> dict[str, Value]:
        truth, scores = dim_zero_cat(self.truth), dim_zero_cat(self.scores)
        labelled = ~truth.isnan().all(1)
        truth, scores = truth[labelled], scores[labelled]
        arguments: Any = {
            "preds": scores,
            "target": truth.nan_to_num(UNKNOWN).long(),
            "num_labels": len(self.classes),
            "ignore_index": UNKNOWN,
            "validate_args": False,
        }
        if not len(truth):
            empty = torch.full((len(self.classes),), torch.nan, device=self.device)
            return self._to_dict(empty, empty, empty[0], empty[0])
        counts = multilabel_stat_scores(**arguments, threshold=self.threshold, average="none")
        tp, fp, _, fn, positives = counts.unbind(1)
        with warnings.catch_warnings():  # about labels without positives, which are NaN here
            warnings.simplefilter("ignore", UserWarning)
            ap = multilabel_average_precision(**arguments, average="none").masked_fill(positives == 0, torch.nan)
        f1 = 2 * tp / (2 * tp + fp + fn)  # 0 / 0 is NaN
        micro = 2 * tp.sum() / (2 * tp + fp + fn).sum()
        return self._to_dict(ap, f1, micro, multilabel_exact_match(**arguments, threshold=self.threshold))

    def _to_dict(self, ap: Tensor, f1: Tensor, micro: Tensor, exact: Tensor) -> dict[str, Value]:
        return {
            "map": ap.nanmean(),
            "f1": f1.nanmean(),
            "f1_micro": micro,
            "accuracy": exact,
            "ap_per_class": PerClass("ap", tuple(self.classes), ap),
            "f1_per_class": PerClass("f1", tuple(self.classes), f1),
        }


class MultilabelHead(ElementLossHead, EmbeddingHead, Describable, Distillable, Probeable):
    """A sigmoid for each label on the backbone's embedding.

    A target is ``(C,)`` of 0 and 1 (or between, if images are mixed). NaN is an unknown label, which losses and metrics
    leave out. Extra metrics are updated with probabilities ``(N, C)`` and labels ``(N, C)`` of 0 and 1, -1 if unknown.

    Args:
        dropout: 0..1, before the last layer.
        hidden: width of a hidden GELU layer, or None.
        loss: "bce", "focal" (Lin et al. 2017, https://arxiv.org/abs/1708.02002), "asymmetric" (Ridnik et al. 2021,
            https://arxiv.org/abs/2009.14119) or a module, see `visiontune.models.heads.losses`. Each is the mean over a
            sample's known labels.
        gamma: exponent of the focal loss (None: 2), or of the asymmetric loss for absent labels (None: 4; for present
            labels it is 1, as in its authors' code).
        margin: probability up to which an absent label has no loss; for asymmetric.
        pos_weight: one per label, how much more its presence counts than its absence; for bce.
        label_smoothing: 0..1 of the way from every target to one half.
        threshold: between 0 and 1; labels with a higher score are predicted.

    Raises:
        UserError: an option is out of range, or a loss module does not accept the head's outputs.
    """

    directions = dict.fromkeys(("map", "f1", "f1_micro", "accuracy"), "max") | {"loss": "min"}
    monitor = "map"

    def __init__(
        self,
        features: FeatureShape,
        info: TaskInfo,
        dropout: float = 0.0,
        hidden: int | None = None,
        loss: str | nn.Module = "bce",
        gamma: float | None = None,
        margin: float = 0.05,
        pos_weight: list[float] | None = None,
        label_smoothing: float = 0.0,
        threshold: float = 0.5,
    ) -> None:
        super().__init__(features, len(info.classes), dropout, hidden)
        self.classes = list(info.classes)
        example = torch.zeros(2, len(self.classes))
        self.loss_module = build_loss(loss, GAMMA, f"{KEY}.loss", example, example, ignores_unknown=False)
        if pos_weight is not None and loss != "bce":
            raise UserError(f"{KEY}.pos_weight is only for {KEY}.loss=bce; write {KEY}.pos_weight=null")
        if not isinstance(threshold, float) or not 0 < threshold < 1:
            raise UserError(f"{KEY}.threshold={threshold}: write a number between 0 and 1, such as {KEY}.threshold=0.5")
        self.loss_name, self.margin = loss if isinstance(loss, str) else "", margin
        self.gamma = GAMMA.get(self.loss_name, 0.0) if gamma is None else gamma
        self.metric_arguments = {"ignore_index": UNKNOWN}
        self.label_smoothing = check_smoothing(label_smoothing, f"{KEY}.label_smoothing")
        self.threshold = threshold
        self.pos_weight: Tensor | None
        weights = check_weights(pos_weight, len(self.classes), f"{KEY}.pos_weight")
        self.register_buffer("pos_weight", weights, persistent=False)

    def forward(self, features: Features) -> Raw:
        return {"logits": self.layers(features)}

    def element_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        logits, target = predictions, self.smooth(targets)
        if self.loss_name == "focal":
            return sigmoid_focal_loss(logits, target, alpha=-1, gamma=self.gamma)
        if self.loss_name == "bce":
            return F.binary_cross_entropy_with_logits(logits, target, pos_weight=self.pos_weight, reduction="none")
        shifted = (logits.sigmoid() - self.margin).clamp(0, 1 - 1e-6)
        present = -F.logsigmoid(logits) * (-logits).sigmoid()
        return target * present - (1 - target) * shifted**self.gamma * torch.log1p(-shifted)

    def smooth(self, targets: Tensor) -> Tensor:
        return targets * (1 - self.label_smoothing) + 0.5 * self.label_smoothing

    def loss_inputs(self, raw: Raw, targets: list[Any]) -> tuple[Tensor, Tensor]:
        logits = raw["logits"].float()
        target = torch.full_like(logits, torch.nan)
        for i, labels in enumerate(targets):
            if labels is not None:
                target[i] = labels
        return logits, target

    def distill(self, raw: Raw, teacher: Self, teacher_outputs: Raw, temperature: float) -> Tensor:
        return binary_distillation_loss(raw["logits"], teacher_outputs["logits"], temperature)

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        """`scores` ``(B, C)``, a probability for each label."""
        return {"scores": raw["logits"].float().sigmoid()}

    def metrics(self) -> MultilabelMetrics:
        return MultilabelMetrics(self.classes, self.threshold)

    def metric_inputs(self, predictions: list[Prediction], targets: list[Any]) -> Iterable[tuple[Tensor, Tensor]]:
        scores = torch.stack([prediction["scores"] for prediction in predictions]).float()
        yield scores, torch.stack(targets).to(scores).nan_to_num(UNKNOWN).long()

    def per_class_scores(self, computed: Mapping[str, Any]) -> dict[str, Tensor]:
        return computed["ap_per_class"].as_dict()

    def describe(self, prediction: Prediction) -> tuple[str, float]:
        """The labels above the threshold, best first, and the highest score of all."""
        scores = prediction["scores"]
        labels = [int(i) for i in scores.argsort(descending=True) if scores[i] > self.threshold]
        return ", ".join(f"{self.classes[i]} {float(scores[i]):.0%}" for i in labels) or "none", float(scores.max())

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
            predicted, truth = prediction["scores"].cpu() > self.threshold, target.cpu()
            wrong = bool((predicted != (truth > 0.5))[~truth.isnan()].any())
        return caption(image, lines, bad=wrong)

    @torch.no_grad()
    def fit_probe(self, train: Probe, val: Probe) -> str | None:
        """One logistic regression per label with the penalty that is best on val; None with a hidden layer."""
        (x, y), (x_val, y_val) = (_labelled(*split) for split in (train, val))
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
