"""RF-DETR of Hugging Face transformers on the maps of a plain vision transformer."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visiontune.errors import UserError
from visiontune.models.features import FeatureShape
from visiontune.models.heads.base import Raw
from visiontune.models.heads.class_rows import ClassRows
from visiontune.models.heads.detector_options import DetectorOptions
from visiontune.models.heads.set_detector import SetDetector, as_labels, build_network, training_mode
from visiontune.models.transformers_library import import_transformers

PART = 256  # matched boxes in one part of `_split_loss`


class _Neck(nn.Module):
    """Replaces the library's backbone: its input are the maps, which `projector` has already merged."""

    def __init__(self, projector: nn.Module) -> None:
        super().__init__()
        self.projector = projector

    def forward(self, level: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return level, mask.bool()


class RfDetr(SetDetector):
    """RF-DETR (Robinson et al. 2025, https://arxiv.org/abs/2511.09554).

    In the losses there are several groups of queries (`transformer.group_detr`, by default 13), as in the library's
    training, and each object is matched in each group. Predictions come from the first group.

    Attributes:
        network: the library's model without its backbone.
    """

    def __init__(
        self, kind: str, features: FeatureShape, classes: int, options: DetectorOptions, masks: bool = False
    ) -> None:
        """
        Args:
            masks: whether each query has a mask (RF-DETR-Seg).

        Raises:
            UserError: transformers is missing, a wrong argument in `options.transformer`, a backbone whose maps
                differ in stride or width, or images that are too small.
        """
        super().__init__(kind, classes, options)
        if len({*features.strides}) > 1 or len({*features.channels}) > 1:
            other = "mask_rcnn" if masks else "rt_detr_v2"
            raise UserError(
                f"{options.key}.detector={kind} needs maps of one stride and width, such as those of a plain vision "
                f"transformer, and the backbone's have the strides {features.strides} and the widths "
                f"{features.channels}; write {options.key}.detector={other}"
            )
        maps = len(features.channels)
        small = {
            "model_type": "rf_detr_dinov2",
            "hidden_size": features.channels[0],
            "num_hidden_layers": maps,
            "num_attention_heads": 1,
            "mlp_ratio": 1,
            "image_size": 16,
            "patch_size": 16,
            "num_windows": 1,
            "out_indices": list(range(1, maps + 1)),
        }
        names = ("RfDetrConfig", "RfDetrForInstanceSegmentation" if masks else "RfDetrForObjectDetection")
        values = {**(options.transformer or {}), "num_labels": classes}
        self.network = build_network(kind, names, values, small, options.key)
        self.config, self.masks = self.network.config, masks
        self.mask_stride = self.config.mask_downsample_ratio  # pixels of the input per cell of a mask
        # The detection model, which is the whole one without masks.
        detection = self._detection
        detection.model.backbone = _Neck(detection.model.backbone.projector)
        self.queries, self.strides = self.config.num_queries, features.strides[-1:]
        path = "network.model.model" if masks else "network.model"
        names = ("query_feat", "reference_point_embed")
        self.query_groups = {f"{path}.{name}.weight": self.config.group_detr for name in names}
        if features.image_size:
            self.check_size(features.image_size)
        module, prefix = ("loss_rf_detr", "RfDetr") if masks else ("loss_lw_detr", "LwDetr")
        library = import_transformers(f"{options.key}.detector={kind}", f"transformers.loss.{module}")
        # Two classes, since the average of the weights copies the model, and Python cannot copy a module.
        self._matcher_class: Any = getattr(library, f"{prefix}HungarianMatcher")
        self._loss_class: Any = getattr(library, f"{prefix}ImageLoss")

    @property
    def _detection(self) -> Any:
        return self.network.model if self.masks else self.network

    def _group_modules(self) -> list[nn.Module]:
        """The modules whose mode decides whether queries are in groups, which do not attend to each other."""
        model = self._detection
        return [model, model.model, *(layer.self_attn for layer in model.model.decoder.layers)]

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> Raw:
        self.check_size(size)
        return {"level_0": self._detection.model.backbone.projector(tuple(maps)), "size": size}

    def class_rows(self) -> dict[str, ClassRows]:
        path = "network.model." if self.masks else "network."
        layers = ["class_embed", *(f"model.enc_out_class_embed.{i}" for i in range(self.config.group_detr))]
        return {f"{path}{layer}.{name}": ClassRows() for layer in layers for name in ("weight", "bias")}

    def predict(self, raw: Raw) -> dict[str, Tensor]:
        model = self._detection
        with training_mode(False, *self._group_modules()):
            outputs = self._decode(raw)
            logits, boxes = model.predict_class_and_boxes(
                outputs.last_hidden_state, outputs.intermediate_reference_points[-1]
            )
        predictions = {"logits": logits.float(), "boxes": boxes.float()}
        if self.masks:
            masks = self.network.segmentation_head(raw["level_0"], outputs.intermediate_hidden_states, raw["size"])
            predictions["mask_logits"] = masks[-1].float()
        return predictions

    def losses(self, raw: Raw, targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        labels, layers = as_labels(targets, raw["size"]), self._predict_layers(raw)
        if not all(value.isfinite().all() for value in layers[0].values()):
            return {"loss": layers[0]["logits"].sum() * torch.nan}  # `on_nonfinite` handles it
        count = max(1.0, raw.get("objects", sum(len(target["labels"]) for target in targets)) * self.config.group_detr)
        with torch.autocast(raw["level_0"].device.type, enabled=False):
            criterion, weights = self._criterion()
            sums: dict[str, Tensor] = {}
            for layer in layers:
                matches = criterion.matcher(layer, labels, self.config.group_detr)
                for kind in criterion.losses:
                    for part in _split_loss(kind, layer, labels, matches):
                        for name, value in criterion.get_loss(kind, *part, count).items():
                            sums[name] = sums.get(name, 0) + weights[name] * value.sum()
        return sums

    def _predict_layers(self, raw: Raw) -> list[dict[str, Tensor]]:
        """Logits, boxes and masks of the last layer, the other layers of the decoder and the encoder, in this order."""
        model, size = self._detection, raw["size"]
        with training_mode(True, *self._group_modules()):
            outputs = self._decode(raw)
            encoder = {
                "logits": model.predict_encoder_class_logits(outputs.enc_outputs_class),
                "pred_boxes": outputs.enc_outputs_coord_logits,
            }
        logits, boxes = model.predict_class_and_boxes(
            outputs.intermediate_hidden_states, outputs.intermediate_reference_points
        )
        layers = [encoder, *({"logits": a, "pred_boxes": b} for a, b in zip(logits, boxes, strict=True))]
        if self.masks:
            head, level = self.network.segmentation_head, raw["level_0"]
            masks = [head(level, outputs.enc_outputs_class, size, skip_blocks=True)]
            masks += head(level, outputs.intermediate_hidden_states, size)
            layers = [layer | {"pred_masks": mask} for layer, mask in zip(layers, masks, strict=True)]
        encoder, *decoder, last = [{name: value.float() for name, value in layer.items()} for layer in layers]
        return [last, *decoder, encoder]  # the library's order, in which it draws random points of masks

    def _criterion(self) -> tuple[Any, dict[str, float]]:
        """The library's matching and losses of one layer, and the weights of the losses."""
        config = self.config
        costs = {name: getattr(config, name) for name in ("class_cost", "bbox_cost", "giou_cost")}
        arguments: dict[str, Any] = {"num_classes": self.classes, "focal_alpha": config.focal_alpha}
        arguments |= {"losses": ["labels", "boxes"], "group_detr": config.group_detr}
        weights = {f"loss_{name}": getattr(config, f"{name}_loss_coefficient") for name in ("bbox", "giou")}
        weights["loss_ce"] = config.class_loss_coefficient
        if not self.masks:
            return self._loss_class(self._matcher_class(**costs), **arguments), weights
        points = config.mask_point_sample_ratio
        weights["loss_mask_ce"] = config.mask_class_loss_coefficient
        weights["loss_mask_dice"] = config.mask_dice_loss_coefficient
        matcher = self._matcher_class(
            **costs,
            mask_point_sample_ratio=points,
            cost_mask_class_cost=config.mask_class_loss_coefficient,
            cost_mask_dice_cost=config.mask_dice_loss_coefficient,
        )
        arguments["losses"] = ["labels", "boxes", "masks"]
        return self._loss_class(matcher, **arguments, mask_point_sample_ratio=points), weights

    def _decode(self, raw: Raw) -> Any:
        return self._detection.model(raw["level_0"])


def _split_loss(
    kind: str, layer: dict[str, Tensor], labels: list[dict[str, Tensor]], matches: list[tuple[Tensor, Tensor]]
) -> Iterator[tuple[dict[str, Tensor], list[dict[str, Tensor]], list[tuple[Tensor, Tensor]]]]:
    """The arguments of the library's loss in parts, whose losses add up to that of the batch.

    The library compares each matched box with all others, to read the diagonal: with 13 groups of queries and 50
    objects in each of 16 images, that is 10,000 x 10,000 boxes for each layer.
    """
    if kind == "masks":  # it draws random points in the masks of all images
        yield layer, labels, matches
        return
    for i, (queries, objects) in enumerate(matches):
        image = {name: layer[name][i : i + 1] for name in ("logits", "pred_boxes")}
        # The loss of the labels also contains the queries without an object, once.
        step = PART if kind == "boxes" else max(1, len(queries))
        for start in range(0, max(1, len(queries)), step):
            part = slice(start, start + step)
            yield image, labels[i : i + 1], [(queries[part], objects[part])]
