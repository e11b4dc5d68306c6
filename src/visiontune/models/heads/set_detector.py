"""RT-DETR v2 and D-FINE of Hugging Face transformers on the maps of any backbone."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from visiontune.errors import UserError, first_line
from visiontune.models.features import FeatureShape
from visiontune.models.heads.base import Raw
from visiontune.models.heads.class_rows import ClassRows
from visiontune.models.heads.detector_options import DetectorOptions
from visiontune.models.transformers_library import import_transformers

# Detector -> class of its config, class of its model, and function of its loss.
LIBRARY = {
    "rt_detr_v2": ("RTDetrV2Config", "RTDetrV2ForObjectDetection", "loss_rt_detr.RTDetrForObjectDetectionLoss"),
    "d_fine": ("DFineConfig", "DFineForObjectDetection", "loss_d_fine.DFineForObjectDetectionLoss"),
}
# The library builds a backbone with the model. This one is small, and is deleted.
BACKBONE = {
    "rt_detr_v2": {"model_type": "rt_detr_resnet", "layer_type": "basic"},
    "d_fine": {"model_type": "hgnet_v2"},
}
NO_CHECKS = "TRANSFORMERS_DISABLE_TORCH_CHECK"


class SetDetector(nn.Module):
    """A transformer whose queries each predict one object or none: RT-DETR v2 (Lv et al. 2024,
    https://arxiv.org/abs/2407.17140) or D-FINE (Peng et al. 2024, https://arxiv.org/abs/2410.13842).

    Encoder, decoder and loss are the library's. The loss matches predictions and objects one to one (Hungarian
    matching), after every layer of the decoder, and learns to undo noise on the true boxes (denoising queries), in
    training and in evaluation.

    Raw tensors: `level_0`, ... (the encoder's maps); shared by all images `size` (H, W).

    Attributes:
        network: the library's model without its backbone.
        queries: largest number of objects per image.
    """

    def __init__(self, kind: str, features: FeatureShape, classes: int, options: DetectorOptions) -> None:
        """
        Raises:
            UserError: transformers is missing, a wrong argument in `options.transformer`, or a backbone without maps of
                the strides that the model reads.
        """
        super().__init__()
        self.kind, self.key = kind, options.key
        library = import_transformers(f"{options.key}.detector={kind}")
        config_name, model_name, loss = LIBRARY[kind]
        values = dict(options.transformer or {})
        strides = list(values.get("feat_strides", (8, 16, 32)))
        self.map_indices = _find_maps(features, strides, options.key)
        self.stride = max(strides)
        widths = [features.channels[i] for i in self.map_indices]
        channels = [values.get("encoder_hidden_dim", 256)] * len(widths)
        values = {"decoder_in_channels": channels, **values, "encoder_in_channels": widths, "num_labels": classes}
        small = {**BACKBONE[kind], "out_indices": list(range(5 - len(widths), 5))}
        try:
            config = getattr(library, config_name)(**values, backbone_config=_small_backbone(small))
            _check_names(values, config, options.key)
            model = getattr(library, model_name)(config)
        except UserError:
            raise
        except Exception as error:  # the library's checks raise errors of many types
            raise UserError(
                f"{options.key}.transformer: transformers cannot build this {kind} ({first_line(error)[:200]})"
            ) from error
        self.network = model.model
        self.network.backbone = None
        self.network.encoder_input_proj = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, config.encoder_hidden_dim, 1, bias=False), nn.BatchNorm2d(config.encoder_hidden_dim)
            )
            for width in widths
        )
        self.network.encoder_input_proj.apply(self.network._init_weights)
        self.queries, self.classes = config.num_queries, classes
        self.score_threshold, self.max_detections = options.score_threshold, options.max_detections
        name, _, function = loss.partition(".")
        self._loss = getattr(
            import_transformers(f"{options.key}.detector={kind}", f"transformers.loss.{name}"), function
        )

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> Raw:
        if any(side % self.stride for side in size):
            raise UserError(
                f"data.image_size: {self.key}.detector={self.kind} needs sides that are multiples of {self.stride}, "
                f"got {size}; write e.g. data.image_size={self.stride * round(max(size) / self.stride)}"
            )
        projections = zip(self.network.encoder_input_proj, self.map_indices, strict=True)
        levels = self.network.encoder([project(maps[i]) for project, i in projections]).last_hidden_state
        return {**{f"level_{i}": level for i, level in enumerate(levels)}, "size": size}

    def class_rows(self) -> dict[str, ClassRows]:
        layers = ["enc_score_head", *(f"decoder.class_embed.{i}" for i in range(len(self.network.decoder.class_embed)))]
        rows = {f"network.{layer}.{name}": ClassRows() for layer in layers for name in ("weight", "bias")}
        if self.network.config.num_denoising > 0:
            rows["network.denoising_class_embed.weight"] = ClassRows(after=1)  # of queries without an object
        return rows

    def losses(self, raw: Raw, targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The library's losses by name, each summed over the layers of the decoder, the encoder and the denoising."""
        height, width = raw["size"]
        labels = []
        for target in targets:
            boxes = target["boxes"] / target["boxes"].new_tensor([width, height, width, height])
            labels.append({"class_labels": target["labels"], "boxes": box_convert(boxes, "xyxy", "cxcywh").float()})
        with _training(self.network, True):
            outputs = self._decode(raw, labels)
        values = {name: value.float() for name, value in outputs.items() if isinstance(value, Tensor)}
        if not all(values[name].isfinite().all() for name in ("intermediate_logits", "intermediate_reference_points")):
            # The library refuses such boxes. `on_nonfinite` handles the loss.
            return {"loss": values["intermediate_logits"].sum() * torch.nan}
        with torch.autocast(values["intermediate_logits"].device.type, enabled=False):
            _, parts, _ = self._loss(
                values["intermediate_logits"][:, -1],
                labels,
                values["intermediate_logits"].device,
                values["intermediate_reference_points"][:, -1],
                self.network.config,
                values["intermediate_logits"],
                values["intermediate_reference_points"],
                enc_topk_logits=values["enc_topk_logits"],
                enc_topk_bboxes=values["enc_topk_bboxes"],
                denoising_meta_values=outputs.denoising_meta_values,
                predicted_corners=values.get("intermediate_predicted_corners"),
                initial_reference_points=values.get("initial_reference_points"),
            )
        sums: dict[str, Tensor] = {}
        for name, value in parts.items():
            kind = re.sub(r"(_aux|_dn)_\d+$", "", name)
            sums[kind] = sums[kind] + value if kind in sums else value
        return sums

    def zero_loss(self, raw: Raw) -> Tensor:
        """Zero, connected to the graph."""
        logits, boxes = self.predict(raw)
        return 0 * (logits.sum() + boxes.sum())

    def predict(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """Logits ``(B, Q, C)`` and boxes ``(B, Q, 4)``: center, width and height as fractions of the input."""
        with _training(self.network, False):
            outputs = self._decode(raw)
        return outputs.intermediate_logits[:, -1].float(), outputs.intermediate_reference_points[:, -1].float()

    def _decode(self, raw: Raw, labels: list[dict[str, Tensor]] | None = None) -> Any:
        levels = [raw[f"level_{i}"] for i in range(len(self.map_indices))]
        if (cells := sum(level.shape[-2] * level.shape[-1] for level in levels)) < self.queries:
            raise UserError(
                f"{self.key}.transformer.num_queries={self.queries}: images of {raw['size']} pixels give {cells} cells "
                f"for the queries to begin at; write {self.key}.transformer.num_queries={cells}, or larger images"
            )
        encoded = import_transformers(self.kind, "transformers.modeling_outputs").BaseModelOutput(levels)
        # Of the inputs, the library reads only the number of images and the device.
        return self.network(None, inputs_embeds=levels[0], encoder_outputs=encoded, labels=labels)

    def detect(self, raw: Raw) -> list[dict[str, Tensor]]:
        """`boxes` in pixels of the input, `labels` from 0 and `scores` of every image, best first."""
        boxes, scores, labels = self._select(raw)
        valid = scores > self.score_threshold
        return [
            {"boxes": box[rows], "scores": score[rows], "labels": label[rows]}
            for box, score, label, rows in zip(boxes, scores, labels, valid, strict=True)
        ]

    def graph(self, raw: Raw) -> dict[str, Tensor]:
        """`detect` for a batch of one image, with operations that can be exported."""
        with _no_checks():
            boxes, scores, labels = (values[0] for values in self._select(raw))
        valid = scores > self.score_threshold
        return {"boxes": boxes[valid], "scores": scores[valid], "labels": labels[valid]}

    def _select(self, raw: Raw) -> tuple[Tensor, Tensor, Tensor]:
        """The `max_detections` pairs of query and class with the highest scores, as the library's post-processing."""
        logits, boxes = self.predict(raw)
        height, width = raw["size"]
        count = min(self.max_detections, logits.shape[1] * self.classes)
        scores, indices = logits.sigmoid().flatten(1).topk(count)
        boxes = box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor([width, height, width, height])
        queries = torch.div(indices, self.classes, rounding_mode="floor")
        return boxes.gather(1, queries[..., None].expand(-1, -1, 4)), scores, indices % self.classes


@contextmanager
def _training(network: nn.Module, value: bool) -> Iterator[None]:
    """Whether the library's forward pass adds denoising queries and predicts after every layer.

    It reads the mode of these two modules for that; the modes of their layers stay.
    """
    modules: tuple[nn.Module, nn.Module] = (network, network.decoder)  # type: ignore[assignment]
    modes = [module.training for module in modules]
    for module in modules:
        module.training = value
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


@contextmanager
def _no_checks() -> Iterator[None]:
    """Switch off the library's checks of shapes, which ONNX cannot express."""
    before = os.environ.get(NO_CHECKS)
    os.environ[NO_CHECKS] = "1"
    try:
        yield
    finally:
        os.environ.pop(NO_CHECKS) if before is None else os.environ.update({NO_CHECKS: before})


def _find_maps(features: FeatureShape, strides: Sequence[int], key: str) -> list[int]:
    """The index of the last map of each stride."""
    last = {stride: i for i, stride in enumerate(features.strides)}
    if missing := [stride for stride in strides if stride not in last]:
        raise UserError(
            f"{key}.transformer.feat_strides={list(strides)}: the backbone's maps have the strides {features.strides}, "
            f"so {missing} is missing; write e.g. backbone.name=resnet50"
        )
    return [last[stride] for stride in strides]


def _small_backbone(values: dict[str, Any]) -> dict[str, Any]:
    sizes = {"hidden_sizes": [8] * 4, "embedding_size": 8, "depths": [1] * 4}
    if values["model_type"] == "hgnet_v2":
        stages = {f"stage_{part}_channels": [8] * 4 for part in ("in", "mid", "out")}
        counts = {"stage_num_blocks": [1] * 4, "stage_numb_of_layers": [1] * 4, "stem_channels": [3, 8, 8]}
        sizes |= stages | counts
    return values | sizes


def _check_names(values: dict[str, Any], config: Any, key: str) -> None:
    """Refuse arguments that the config does not have; the library would ignore them."""
    known = {*type(config)().to_dict(), "num_labels"}
    if unknown := [name for name in values if name not in known]:
        raise UserError(f"{key}.transformer.{unknown[0]}: {type(config).__name__} of transformers has no such argument")
