"""A class per pixel."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from visiontune.data.frames import Frame
from visiontune.data.schema import TaskInfo
from visiontune.data.targets import IGNORE
from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads import segmentation_losses as losses
from visiontune.models.heads.base import Head, Prediction, Raw
from visiontune.models.heads.decoders import build_decoder, upsample
from visiontune.models.heads.describable import Describable
from visiontune.models.heads.distillable import Distillable
from visiontune.models.heads.drawing import confusion_figure, enlarge
from visiontune.models.heads.exportable import Exportable
from visiontune.models.heads.losses import build_loss, check_smoothing, check_weights
from visiontune.models.heads.metrics import PerClass, Value
from visiontune.models.heads.overlays import draw_label_map, side_by_side
from visiontune.models.heads.soft_targets import kl_distillation_loss

KEY = "heads.segmentation"
LOSSES = ("ce", "dice", "focal")
CHUNK = 2**26  # number of logits (256 MB) to resize to an image at once


class SegmentationMetrics(MulticlassConfusionMatrix):
    """IoU, Dice and pixel accuracy from the confusion matrix of the split; `IGNORE` in the truth is left out.

    A class that occurs neither in truth nor in prediction has no IoU and no Dice (NaN), and the means leave it out.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(len(classes), ignore_index=IGNORE, validate_args=False)
        self.classes = list(classes)

    def update(self, predictions: list[Prediction], targets: list[Tensor]) -> None:  # type: ignore[override]
        for prediction, target in zip(predictions, targets, strict=True):  # images differ in size
            labels = prediction["map"].long()
            super().update(labels, target.as_subclass(Tensor).to(labels))

    def compute(self) -> dict[str, Value]:  # type: ignore[override]
        matrix = super().compute()
        intersection, total = matrix.diag(), matrix.sum(0) + matrix.sum(1)
        iou = intersection / (total - intersection)  # 0 / 0 is NaN
        return {
            "miou": iou.nanmean(),
            "dice": (2 * intersection / total).nanmean(),
            "pixel_accuracy": intersection.sum() / matrix.sum(),
            "confusion_matrix": matrix,
            "iou_per_class": PerClass("iou", tuple(self.classes), iou),
        }


class SegmentationHead(Head, Describable, Exportable, Distillable):
    """A decoder over the backbone's maps; its logits are resized to the input (bilinear).

    Extra metrics are updated with the classes of one image at a time, ``(1, H, W)`` each, 255 where there is no truth.

    Args:
        decoder: see `visiontune.models.heads.decoders`.
        channels: width of the decoder, see `build_decoder`.
        loss: "ce" (cross-entropy), "focal", "dice", a sum such as "ce+dice", or a module, see
            `visiontune.models.heads.losses`; its `ignore_index` is set to 255 if it has one.
        gamma: exponent of the focal loss.
        class_weights: one per class, for the cross-entropy and the focal loss.
        dropout: 0..1, of whole channels before the last layer.
        label_smoothing: 0..1, for the cross-entropy and the focal loss.

    Raises:
        UserError: an option or the number of classes is out of range, or a loss module does not accept the outputs.
    """

    directions = dict.fromkeys(("miou", "dice", "pixel_accuracy"), "max") | {"loss": "min"}
    monitor = "miou"

    def __init__(
        self,
        features: FeatureShape,
        info: TaskInfo,
        decoder: str = "fpn",
        channels: int = 128,
        loss: str | nn.Module = "ce+dice",
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
        self.decoder = build_decoder(decoder, features, channels, len(self.classes), dropout)
        if isinstance(loss, nn.Module) and hasattr(loss, "ignore_index"):
            loss.ignore_index = IGNORE  # type: ignore[assignment]
        parts = [part.strip() for part in loss.split("+")] if isinstance(loss, str) else [loss]
        example = torch.zeros(2, len(self.classes), 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64)
        self.loss_module, *_ = [build_loss(part, LOSSES, f"{KEY}.loss", *example) for part in parts]
        self.parts = [part for part in parts if isinstance(part, str)]
        self.gamma = gamma
        self.label_smoothing = check_smoothing(label_smoothing, f"{KEY}.label_smoothing")
        weights = check_weights(class_weights, len(self.classes), f"{KEY}.class_weights", self.loss_module)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", weights, persistent=False)
        self.metric_arguments = {"ignore_index": IGNORE}

    def forward(self, features: Features) -> Raw:
        """`logits` ``(B, classes, H, W)``, as large as the input."""
        return {"logits": upsample(self.decoder(features), features.size)}

    def _inputs(self, raw: Raw, targets: list[Any]) -> tuple[Tensor, Tensor]:
        """Logits and classes ``(B, H, W)``, `IGNORE` without a label."""
        logits = raw["logits"].float()
        target = logits.new_full((len(logits), *logits.shape[2:]), IGNORE, dtype=torch.int64)
        for i, labels in enumerate(targets):
            if labels is not None:
                target[i] = labels.as_subclass(Tensor)
        return logits, target

    def _losses(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Each part of the loss for each image ``(B,)``; 0 without a label."""
        weights, smoothing = self.class_weights, self.label_smoothing
        return {
            part: losses.dice(logits, target)
            if part == "dice"
            else losses.cross_entropy(logits, target, weights, smoothing, self.gamma if part == "focal" else 0.0)
            for part in self.parts
        }

    def loss(self, raw: Raw, targets: list[Any]) -> dict[str, Tensor]:
        """Means over the labelled images."""
        logits, classes = self._inputs(raw, targets)
        if self.loss_module is not None:
            return {"loss": self.loss_module.batch_loss(logits, classes, classes != IGNORE)}
        count = max(1, sum(target is not None for target in targets))
        return {part: values.sum() / count for part, values in self._losses(logits, classes).items()}

    def sample_loss(self, raw: Raw, targets: list[Any]) -> Tensor:
        logits, classes = self._inputs(raw, targets)
        if self.loss_module is not None:
            return self.loss_module.sample_losses(logits, classes, classes != IGNORE)
        total = torch.stack(list(self._losses(logits, classes).values())).sum(0)
        return total.masked_fill(torch.tensor([target is None for target in targets], device=total.device), torch.nan)

    def distill(self, raw: Raw, teacher: Self, teacher_outputs: Raw, temperature: float) -> Tensor:
        """The mean over all pixels, also over those without truth."""
        teacher_logits = upsample(teacher_outputs["logits"], raw["logits"].shape[-2:])
        return kl_distillation_loss(raw["logits"], teacher_logits, temperature)

    def decode(self, raw: Raw, frames: Sequence[Frame]) -> list[Prediction]:
        """`map` ``(H, W)`` uint8, the most probable class of each pixel; `confidence`, their mean probability."""
        return [
            {"map": argmax_map(logits.float(), frame), "confidence": _confidence(logits.float(), frame)}
            for logits, frame in zip(raw["logits"], frames, strict=True)
        ]

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        """`map` ``(B, H, W)`` and `confidence` ``(B,)``."""
        logits = raw["logits"].float()
        return {"map": frame.pixels(logits).argmax(1).to(torch.uint8), "confidence": _confidence(logits, frame)}

    def metrics(self) -> SegmentationMetrics:
        return SegmentationMetrics(self.classes)

    def metric_inputs(self, predictions: list[Prediction], targets: list[Any]) -> Iterable[tuple[Tensor, Tensor]]:
        for prediction, target in zip(predictions, targets, strict=True):
            labels = prediction["map"].long()
            yield labels[None], target.as_subclass(Tensor).to(labels)[None]

    def per_class_scores(self, computed: Mapping[str, Any]) -> dict[str, Tensor]:
        return computed["iou_per_class"].as_dict()

    def describe(self, prediction: Prediction) -> tuple[str, float]:
        """The largest classes with their shares of the image, and the mean probability of the predicted classes."""
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
        images = {
            title: draw_label_map(image, labels.as_subclass(Tensor), self.classes)
            for title, labels in maps.items()
            if labels is not None
        }
        return side_by_side(list(images.values()), list(images)) if images else enlarge(image)

    def images(self, prediction: Prediction) -> dict[str, Tensor]:
        return {"mask": prediction["map"][None]}

    def figures(self, computed: Mapping[str, Any]) -> dict[str, Figure]:
        if len(self.classes) > 40:
            return {}
        return {"confusion_matrix": confusion_figure(computed["confusion_matrix"], self.classes)}


def argmax_map(logits: Tensor, frame: Frame, chunk: int = CHUNK) -> Tensor:
    """Argmax ``(H, W)`` uint8 in the image's pixels of ``(C, h, w)`` logits, some classes at a time.

    Args:
        chunk: number of values to resize at once (at least one class).
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
    """Mean probability of the most probable class over the part of the input that shows the image.

    Args:
        logits: ``(..., C, h, w)``.
    """
    inside = frame.remove_padding(logits)
    # The softmax of the largest logit, which is far faster than that of all logits.
    return (inside - inside.amax(-3, keepdim=True)).exp().sum(-3).reciprocal().mean((-2, -1))
