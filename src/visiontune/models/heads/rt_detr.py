"""RT-DETR v2 and D-FINE of Hugging Face transformers on the maps of any backbone."""

import re
from collections.abc import Sequence
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

# Detector -> classes of its config and its model.
NAMES = {
    "rt_detr_v2": ("RTDetrV2Config", "RTDetrV2ForObjectDetection"),
    "d_fine": ("DFineConfig", "DFineForObjectDetection"),
}
# Detector -> module and function of its loss.
LOSSES = {
    "rt_detr_v2": ("loss_rt_detr", "RTDetrForObjectDetectionLoss"),
    "d_fine": ("loss_d_fine", "DFineForObjectDetectionLoss"),
}


class RtDetr(SetDetector):
    """RT-DETR v2 (Lv et al. 2024, https://arxiv.org/abs/2407.17140) or D-FINE (Peng et al. 2024,
    https://arxiv.org/abs/2410.13842).

    The losses contain those of denoising queries: the decoder learns to undo noise on the true boxes and classes.

    Attributes:
        network: the library's model without its backbone.
    """

    def __init__(self, kind: str, features: FeatureShape, classes: int, options: DetectorOptions) -> None:
        """
        Raises:
            UserError: transformers is missing, a wrong argument in `options.transformer`, a backbone without maps of
                the strides that the model reads, or images of an unsuitable size.
        """
        super().__init__(kind, classes, options)
        values = dict(options.transformer or {})
        strides = list(values.get("feat_strides", (8, 16, 32)))
        self.strides, self.map_indices = strides, _find_maps(features, strides, options.key)
        widths = [features.channels[i] for i in self.map_indices]
        channels = [values.get("encoder_hidden_dim", 256)] * len(widths)
        values = {"decoder_in_channels": channels, **values, "encoder_in_channels": widths, "num_labels": classes}
        model = build_network(kind, NAMES[kind], values, _small_backbone(kind, len(widths)), options.key)
        config, self.network = model.config, model.model
        self.network.backbone = None
        self.network.encoder_input_proj = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, config.encoder_hidden_dim, 1, bias=False), nn.BatchNorm2d(config.encoder_hidden_dim)
            )
            for width in widths
        )
        self.network.encoder_input_proj.apply(self.network._init_weights)
        self.queries = config.num_queries
        if features.image_size:
            self.check_size(features.image_size)
        # Looked up here, since it reads the version of the installed package.
        self._output = import_transformers(
            f"{options.key}.detector={kind}", "transformers.modeling_outputs"
        ).BaseModelOutput
        module, function = LOSSES[kind]
        self._loss = getattr(
            import_transformers(f"{options.key}.detector={kind}", f"transformers.loss.{module}"), function
        )

    def check_size(self, size: tuple[int, int]) -> None:
        """As in the base class; also that the encoder can add its maps, whose sides then differ by a factor of two."""
        stride = max(self.strides)
        if any(side % stride for side in size):
            raise UserError(
                f"data.image_size={list(size)}: {self.key}.detector={self.kind} needs sides that are multiples of "
                f"{stride}; write e.g. data.image_size={stride * max(1, round(max(size) / stride))}"
            )
        super().check_size(size)

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> Raw:
        self.check_size(size)
        projections = zip(self.network.encoder_input_proj, self.map_indices, strict=True)
        levels = self.network.encoder([project(maps[i]) for project, i in projections]).last_hidden_state
        return {**{f"level_{i}": level for i, level in enumerate(levels)}, "size": size}

    def class_rows(self) -> dict[str, ClassRows]:
        layers = ["enc_score_head", *(f"decoder.class_embed.{i}" for i in range(len(self.network.decoder.class_embed)))]
        rows = {f"network.{layer}.{name}": ClassRows() for layer in layers for name in ("weight", "bias")}
        if self.network.config.num_denoising > 0:
            # The last entry is that of queries without an object.
            rows["network.denoising_class_embed.weight"] = ClassRows(after=1, average=False)
        return rows

    def losses(self, raw: Raw, targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        labels = as_labels(targets, raw["size"])
        with training_mode(True, self.network, self.network.decoder):
            outputs = self._decode(raw, labels)
        values = {name: value.float() for name, value in outputs.items() if isinstance(value, Tensor)}
        logits, boxes = values["intermediate_logits"], values["intermediate_reference_points"]
        if not (logits.isfinite().all() and boxes.isfinite().all()):
            # The library refuses such boxes. `on_nonfinite` handles the loss.
            return {"loss": logits.sum() * torch.nan}
        with torch.autocast(logits.device.type, enabled=False):
            _, parts, _ = self._loss(
                logits[:, -1],
                labels,
                logits.device,
                boxes[:, -1],
                self.network.config,
                logits,
                boxes,
                enc_topk_logits=values["enc_topk_logits"],
                enc_topk_bboxes=values["enc_topk_bboxes"],
                denoising_meta_values=outputs.denoising_meta_values,
                predicted_corners=values.get("intermediate_predicted_corners"),
                initial_reference_points=values.get("initial_reference_points"),
            )
        # The library divides by the number of objects of these images.
        count = sum(len(target["labels"]) for target in targets)
        factor = max(1, count) / max(1, raw.get("objects", count))
        sums: dict[str, Tensor] = {}
        for name, value in parts.items():
            kind = re.sub(r"(_aux|_dn)_\d+$", "", name)
            sums[kind] = sums.get(kind, 0) + factor * value
        return sums

    def predict(self, raw: Raw) -> dict[str, Tensor]:
        with training_mode(False, self.network, self.network.decoder):
            outputs = self._decode(raw)
        logits, boxes = outputs.intermediate_logits, outputs.intermediate_reference_points
        return {"logits": logits[:, -1].float(), "boxes": boxes[:, -1].float()}

    def _decode(self, raw: Raw, labels: list[dict[str, Tensor]] | None = None) -> Any:
        levels = [raw[f"level_{i}"] for i in range(len(self.map_indices))]
        encoded = self._output(levels)
        # Of the inputs, the library reads only the number of images and the device.
        return self.network(None, inputs_embeds=levels[0], encoder_outputs=encoded, labels=labels)


def _find_maps(features: FeatureShape, strides: Sequence[int], key: str) -> list[int]:
    """The index of the last map of each stride."""
    last = {stride: i for i, stride in enumerate(features.strides)}
    if missing := [stride for stride in strides if stride not in last]:
        raise UserError(
            f"{key}.transformer.feat_strides={list(strides)}: the backbone's maps have the strides {features.strides}, "
            f"so {missing} is missing; write e.g. backbone.name=resnet50"
        )
    return [last[stride] for stride in strides]


def _small_backbone(kind: str, maps: int) -> dict[str, Any]:
    sizes = {"hidden_sizes": [8] * 4, "embedding_size": 8, "depths": [1] * 4, "out_indices": list(range(5 - maps, 5))}
    if kind == "rt_detr_v2":
        return {"model_type": "rt_detr_resnet", "layer_type": "basic", **sizes}
    stages = {f"stage_{part}_channels": [8] * 4 for part in ("in", "mid", "out")}
    counts = {"stage_num_blocks": [1] * 4, "stage_numb_of_layers": [1] * 4, "stem_channels": [3, 8, 8]}
    return {"model_type": "hgnet_v2", **sizes, **stages, **counts}
