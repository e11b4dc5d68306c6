"""A class a pixel."""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from visiontune.data.frames import Frame
from visiontune.data.schema import TaskInfo
from visiontune.data.targets import IGNORE
from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads import segmentation_losses as losses
from visiontune.models.heads.base import Head, Prediction, Raw
from visiontune.models.heads.decoders import decoder as build_decoder
from visiontune.models.heads.decoders import upsampled
from visiontune.models.heads.drawing import confusion_figure, enlarged
from visiontune.models.heads.overlays import beside, labels_picture
from visiontune.models.heads.soft_targets import kl_distillation_loss

LOSSES = ("ce", "dice", "focal")
CHUNK = 2**26  # values (256 MB) of logits that are brought to an image's size at once


class SegmentationMetrics(MulticlassConfusionMatrix):
    """IoU, Dice and pixel accuracy, all from the one confusion matrix of the split; `IGNORE` in the truth is left out.

    A class that occurs neither in truth nor in prediction has no IoU and no Dice (NaN), and no part in their means.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(len(classes), ignore_index=IGNORE, validate_args=False)
        self.classes = list(classes)

    def update(self, predictions: list[Prediction], targets: list[Tensor]) -> None:  # type: ignore[override]
        for prediction, target in zip(predictions, targets, strict=True):  # images differ in size
            found = prediction["map"].long()
            super().update(found, target.as_subclass(Tensor).to(found))

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        matrix = super().compute()
        right, either = matrix.diag(), matrix.sum(0) + matrix.sum(1)
        iou = right / (either - right)  # 0 / 0 is NaN
        return {
            "miou": iou.nanmean(),
            "dice": (2 * right / either).nanmean(),
            "pixel_accuracy": right.sum() / matrix.sum(),
            "confusion_matrix": matrix,
            **{f"iou/{name}": value for name, value in zip(self.classes, iou, strict=True)},
        }


class SegmentationHead(Head):
    """A decoder over the backbone's maps, its logits brought to the size of the input (bilinear).

    Args:
        decoder: see `visiontune.models.heads.decoders`.
        channels: width of the decoder.
        loss: "ce" (cross-entropy), "focal", "dice", or a sum such as "ce+dice".
        gamma: exponent of the focal loss.
        class_weights: one a class, for the cross-entropy and the focal loss.
        dropout: 0..1, of whole channels before the last layer.
        label_smoothing: 0..1, of the cross-entropy and the focal loss.

    Raises:
        UserError: an option without meaning.
    """

    directions = dict.fromkeys(("miou", "dice", "pixel_accuracy"), "max") | {"loss": "min"}
    monitor = "miou"

    def __init__(
        self,
        features: FeatureShape,
        info: TaskInfo,
        decoder: str = "fpn",
        channels: int = 128,
        loss: str = "ce+dice",
        gamma: float = 2.0,
        class_weights: list[float] | None = None,
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.classes = list(info.classes)
        if not 2 <= len(self.classes) <= IGNORE:
            raise UserError(
                f"a segmentation head is for 2 to {IGNORE} classes, the data has {len(self.classes)}; "
                "name the background too, such as data.classes=[background,road]"
            )
        self.parts = [part.strip() for part in loss.split("+")]
        if unknown := [part for part in self.parts if part not in LOSSES]:
            raise UserError(
                f"loss={loss} of a segmentation head: {unknown[0]!r} is not one of {', '.join(LOSSES)}; "
                "write e.g. loss=ce+dice"
            )
        if class_weights is not None and len(class_weights) != len(self.classes):
            raise UserError(f"class_weights has {len(class_weights)} numbers for {len(self.classes)} classes")
        self.decoder = build_decoder(decoder, features, channels, len(self.classes), dropout)
        self.gamma, self.label_smoothing = gamma, label_smoothing
        self.class_weights: Tensor | None
        weights = None if class_weights is None else torch.tensor(class_weights).float()
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, features: Features) -> Raw:
        """`logits` ``(B, classes, H, W)``, as large as the input."""
        return {"logits": upsampled(self.decoder(features), features.size)}

    def _losses(self, raw: Raw, targets: list[Any]) -> dict[str, Tensor]:
        """Each part of the loss for each image ``(B,)``; 0 without a label."""
        logits = raw["logits"].float()
        target = logits.new_full((len(logits), *logits.shape[2:]), IGNORE, dtype=torch.int64)
        for i, labels in enumerate(targets):
            if labels is not None:
                target[i] = labels.as_subclass(Tensor)
        weights, smoothing = self.class_weights, self.label_smoothing
        return {
            part: losses.dice(logits, target)
            if part == "dice"
            else losses.cross_entropy(logits, target, weights, smoothing, self.gamma if part == "focal" else 0.0)
            for part in self.parts
        }

    def loss(self, raw: Raw, targets: list[Any]) -> dict[str, Tensor]:
        """Means over the labelled images."""
        count = max(1, sum(target is not None for target in targets))
        return {part: values.sum() / count for part, values in self._losses(raw, targets).items()}

    def sample_loss(self, raw: Raw, targets: list[Any]) -> Tensor:
        total = torch.stack(list(self._losses(raw, targets).values())).sum(0)
        return total.masked_fill(torch.tensor([target is None for target in targets], device=total.device), torch.nan)

    def distill(self, raw: Raw, teacher: Self, taught: Raw, temperature: float) -> Tensor:
        """The mean over all pixels, those without truth too."""
        return kl_distillation_loss(raw["logits"], upsampled(taught["logits"], raw["logits"].shape[-2:]), temperature)

    def decode(self, raw: Raw, frames: Sequence[Frame]) -> list[Prediction]:
        """`map` ``(H, W)`` uint8, the most probable class a pixel; `confidence`, the mean of its probabilities."""
        return [
            {"map": most_probable(logits.float(), frame), "confidence": _confidence(logits.float(), frame)}
            for logits, frame in zip(raw["logits"], frames, strict=True)
        ]

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        """`map` ``(B, H, W)`` and `confidence` ``(B,)``."""
        logits = raw["logits"].float()
        return {"map": frame.pixels(logits).argmax(1).to(torch.uint8), "confidence": _confidence(logits, frame)}

    def metrics(self) -> SegmentationMetrics:
        return SegmentationMetrics(self.classes)

    def per_class_scores(self, computed: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: computed[f"iou/{name}"] for name in self.classes}

    def describe(self, prediction: Prediction) -> tuple[str, float]:
        """The largest classes with their shares of the image; the mean probability of the chosen classes."""
        return self.describe_target(prediction["map"]), float(prediction["confidence"])

    def describe_target(self, target: Any) -> str:
        if target is None:
            return ""
        labels = target.as_subclass(Tensor)
        counts = torch.bincount(labels[labels != IGNORE].long(), minlength=len(self.classes))
        share, order = (counts / counts.sum().clamp_min(1)).sort(descending=True, stable=True)
        return ", ".join(
            f"{self.classes[i]} {part:.0%}" for part, i in zip(share.tolist()[:5], order.tolist(), strict=False) if part
        )

    def draw(self, image: Tensor, prediction: Prediction | None, target: Any = None) -> Tensor:
        """Truth and prediction in colours, side by side."""
        maps = {"truth": target, "prediction": None if prediction is None else prediction["map"]}
        shown = {title: labels.as_subclass(Tensor) for title, labels in maps.items() if labels is not None}
        if not shown:
            return enlarged(image)
        return beside([labels_picture(image, labels, self.classes) for labels in shown.values()], list(shown))

    def images(self, prediction: Prediction) -> dict[str, Tensor]:
        return {"mask": prediction["map"][None]}

    def figures(self, computed: dict[str, Tensor]) -> dict[str, Figure]:
        if len(self.classes) > 40:
            return {}
        return {"confusion_matrix": confusion_figure(computed["confusion_matrix"], self.classes)}


def most_probable(logits: Tensor, frame: Frame, chunk: int = CHUNK) -> Tensor:
    """Argmax ``(H, W)`` uint8 in the image's pixels of ``(C, h, w)`` logits, some classes at a time.

    Args:
        chunk: at most so many values are brought to the image's size at once (one class at least).
    """
    size = max(1, chunk // math.prod(frame.size))
    first, *rest = range(0, len(logits), size)
    best, labels = frame.pixels(logits[first : first + size]).max(0)
    for start in rest:
        value, label = frame.pixels(logits[start : start + size]).max(0)
        better = value > best
        best = torch.where(better, value, best)
        labels = torch.where(better, label + start, labels)
    return labels.to(torch.uint8)


def _confidence(logits: Tensor, frame: Frame) -> Tensor:
    """Mean probability of the most probable class over that part of the input which shows the image.

    Args:
        logits: ``(..., C, h, w)``.
    """
    shown = frame.shown(logits)  # a softmax of which all but the largest value are thrown away takes far longer
    return (shown - shown.amax(-3, keepdim=True)).exp().sum(-3).reciprocal().mean((-2, -1))
