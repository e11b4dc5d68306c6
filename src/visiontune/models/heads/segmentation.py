"""A class per pixel."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from visiontune.data.frames import Frame
from visiontune.data.schema import TaskInfo
from visiontune.data.targets import IGNORE
from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads import segmentation_losses as losses
from visiontune.models.heads.base import Head, Prediction, Raw
from visiontune.models.heads.class_rows import ClassRows
from visiontune.models.heads.decoders import NORMS, Decoder, build_decoder, fcn_layers, upsample
from visiontune.models.heads.describable import Describable
from visiontune.models.heads.distillable import Distillable
from visiontune.models.heads.drawing import confusion_figure, enlarge
from visiontune.models.heads.eomt import EomtDecoder, refuse_options
from visiontune.models.heads.exportable import Exportable
from visiontune.models.heads.label_maps import argmax_map, mean_confidence
from visiontune.models.heads.losses import build_loss, check_smoothing, check_weights
from visiontune.models.heads.overlays import draw_label_map, side_by_side
from visiontune.models.heads.segmentation_metrics import SegmentationMetrics
from visiontune.models.heads.soft_targets import kl_distillation_loss

KEY = "heads.segmentation"
LOSSES = ("ce", "dice", "focal")


class SegmentationHead(Head, Describable, Exportable, Distillable):
    """A decoder over the backbone's maps; its logits are resized to the input (bilinear).

    Extra metrics are updated with the classes of one image at a time, ``(1, H, W)`` each, 255 where there is no truth.

    Args:
        decoder: see `visiontune.models.heads.decoders`; or "eomt", which only has `transformer`, see `EomtDecoder`.
        channels: width of the decoder, see `build_decoder`.
        loss: "ce" (cross-entropy), "focal", "dice", a sum such as "ce+dice", or a module, see
            `visiontune.models.heads.losses`; its `ignore_index` is set to 255 if it has one.
        gamma: exponent of the focal loss.
        class_weights: one per class, for the cross-entropy and the focal loss.
        dropout: 0..1, of whole channels before the last layer.
        label_smoothing: 0..1, for the cross-entropy and the focal loss.
        norm, atrous_rates: of the decoder, see `build_decoder`.
        transformer: arguments of `EomtConfig` of transformers, for decoder="eomt".
        auxiliary: weight of the loss of a second classifier, an FCN on the last map but one, as torchvision trains
            FCN and DeepLabV3 (Zhao et al. 2017, https://arxiv.org/abs/1612.01105); 0 = none. Only `loss` uses it.

    Raises:
        UserError: an option or the number of classes is out of range, or a loss module does not accept the outputs.
    """

    directions = dict.fromkeys(("miou", "dice", "pixel_accuracy"), "max") | {"loss": "min"}
    monitor = "miou"
    training_only: tuple[str, ...] = ("auxiliary_map",)

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
        norm: str = "group",
        atrous_rates: list[int] | None = None,
        auxiliary: float = 0.0,
        transformer: Mapping[str, Any] | None = None,
    ) -> None:
        options = dict(locals())
        super().__init__()
        self.classes = list(info.classes)
        if not 2 <= len(self.classes) <= IGNORE:
            raise UserError(
                f"a segmentation head is for 2 to {IGNORE} classes, the data has {len(self.classes)}; "
                "name the background too, such as data.classes=[background,road]"
            )
        self.decoder: Decoder | EomtDecoder
        if decoder == "eomt":
            refuse_options(SegmentationHead, options)
            self.decoder = EomtDecoder(features, len(self.classes), transformer)
            self.training_only, self.query_groups = self.decoder.training_only, {"decoder.network.query.weight": 1}
        else:
            if transformer is not None:
                raise UserError(f"{KEY}.transformer is an option of decoder=eomt; write {KEY}.transformer=null")
            self.decoder = build_decoder(decoder, features, channels, len(self.classes), dropout, norm, atrous_rates)
        self.auxiliary = self._build_auxiliary(auxiliary, features, dropout, norm)
        self.auxiliary_weight = auxiliary
        self.scaled_options = [f"decoder={decoder}"] if self.decoder.is_scaled else []
        self.scaled_options += [f"auxiliary={auxiliary:g}"] if auxiliary else []
        # With BatchNorm, the pooled map of one image has no variance.
        self.min_batch_size = 2 if (decoder, norm) == ("deeplabv3", "batch") else 1
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

    def _build_auxiliary(self, weight: Any, features: FeatureShape, dropout: float, norm: str) -> nn.Sequential | None:
        if not isinstance(weight, int | float) or weight < 0:
            raise UserError(f"{KEY}.auxiliary={weight}: expected a number, 0 or more; write e.g. {KEY}.auxiliary=0.5")
        if not weight:
            return None
        if len(features.channels) < 2:
            raise UserError(f"{KEY}.auxiliary={weight}: the backbone has only one map; write {KEY}.auxiliary=0")
        return fcn_layers(features.channels[-2], len(self.classes), dropout, NORMS[norm])

    def forward(self, features: Features) -> Raw:
        """`logits` ``(B, classes, H, W)``, as large as the input, and `auxiliary_map`; or those of `EomtDecoder`."""
        if isinstance(self.decoder, EomtDecoder):
            return self.decoder(features)
        raw = {"logits": upsample(self.decoder(features), features.size)}
        return raw if self.auxiliary is None else raw | {"auxiliary_map": features.maps[-2]}

    def class_rows(self) -> dict[str, ClassRows]:
        layers = [f"decoder.{layer}" for layer in self.decoder.output_layers]
        layers += [] if self.auxiliary is None else ["auxiliary.4.1"]
        return {f"{layer}.{name}": self.decoder.rows for layer in layers for name in ("weight", "bias")}

    def _auxiliary_logits(self, raw: Raw) -> Tensor | None:
        if self.auxiliary is None:
            return None
        return upsample(self.auxiliary(raw["auxiliary_map"]), raw["logits"].shape[-2:])

    def _classes(self, raw: Raw, targets: list[Any]) -> Tensor:
        """``(B, H, W)`` int64, `IGNORE` without a label."""
        logits = raw["logits"]
        classes = torch.full((len(logits), *logits.shape[2:]), IGNORE, device=logits.device)
        for i, labels in enumerate(targets):
            if labels is not None:
                classes[i] = labels.as_subclass(Tensor)
        return classes

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
        if isinstance(self.decoder, EomtDecoder):
            return self.decoder.loss(raw, targets)
        classes, count = self._classes(raw, targets), sum(target is not None for target in targets)
        parts = self._mean_losses(raw["logits"].float(), classes, count)
        if (logits := self._auxiliary_logits(raw)) is not None:
            losses = list(self._mean_losses(logits.float(), classes, count).values())
            parts["auxiliary"] = self.auxiliary_weight * torch.stack(losses).sum()
        return parts

    def _mean_losses(self, logits: Tensor, classes: Tensor, count: int) -> dict[str, Tensor]:
        """Each part of the loss, the mean over `count` labelled images."""
        if self.loss_module is not None:
            return {"loss": self.loss_module.batch_loss(logits, classes, classes != IGNORE)}
        return {part: values.sum() / max(1, count) for part, values in self._losses(logits, classes).items()}

    def sample_loss(self, raw: Raw, targets: list[Any]) -> Tensor:
        """Without the auxiliary loss."""
        if isinstance(self.decoder, EomtDecoder):
            return self.decoder.sample_loss(raw, targets)
        logits, classes = raw["logits"].float(), self._classes(raw, targets)
        if self.loss_module is not None:
            return self.loss_module.sample_losses(logits, classes, classes != IGNORE)
        total = torch.stack(list(self._losses(logits, classes).values())).sum(0)
        return total.masked_fill(torch.tensor([target is None for target in targets], device=total.device), torch.nan)

    def distill(self, raw: Raw, teacher: Self, teacher_outputs: Raw, temperature: float) -> Tensor:
        """The mean over all pixels, also over those without truth."""
        (_, logits), (_, teacher_logits) = self._scores(raw), teacher._scores(teacher_outputs)
        return kl_distillation_loss(logits, upsample(teacher_logits, logits.shape[-2:]), temperature)

    def _scores(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """``(B, C, H, W)``, highest for the most probable class of a pixel; and the logits of the same classes."""
        if isinstance(self.decoder, EomtDecoder):
            return self.decoder.scores(raw)
        return raw["logits"].float(), raw["logits"].float()

    def decode(self, raw: Raw, frames: Sequence[Frame]) -> list[Prediction]:
        """`map` ``(H, W)`` uint8, the most probable class of each pixel; `confidence`, their mean probability."""
        predictions = []
        for i, frame in enumerate(frames):  # one at a time, since the masks of all queries need much memory
            scores, logits = self._scores({name: value[i : i + 1] for name, value in raw.items()})
            predictions.append({"map": argmax_map(scores[0], frame), "confidence": mean_confidence(logits[0], frame)})
        return predictions

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        """`map` ``(B, H, W)`` and `confidence` ``(B,)``."""
        scores, logits = self._scores(raw)
        return {"map": frame.pixels(scores).argmax(1).to(torch.uint8), "confidence": mean_confidence(logits, frame)}

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
