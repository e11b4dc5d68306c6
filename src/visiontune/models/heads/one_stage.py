"""torchvision's FCOS and RetinaNet, without their backbones and their resizing of images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import clip_boxes_to_image

from visiontune.errors import UserError
from visiontune.models.heads.base import Raw
from visiontune.models.heads.boxes import iou_in_parts, select_boxes, topk_per_level
from visiontune.models.heads.class_rows import ClassRows
from visiontune.models.heads.detection_losses import DetectionLosses
from visiontune.models.heads.detector_options import DetectorOptions
from visiontune.models.heads.norm_layers import norm_layer
from visiontune.models.heads.pyramid import Pyramid, level_sizes

OCTAVES = [4 * 2 ** (i / 3) for i in range(3)]  # of the stride (Lin et al. 2017, https://arxiv.org/abs/1708.02002)
DISTANCE = 2.0  # strides from a cell to each side of its box, before an FCOS is trained
RETINA_CONVS = 4  # in torchvision's heads
RATIOS = (0.5, 1.0, 2.0)  # height / width
NORMS = {"fcos": ("group",), "retinanet": ("group", "none")}
BOX_LOSSES = ("l1", "smooth_l1", "giou", "diou", "ciou")  # of torchvision's RetinaNet


class _NoBackbone(nn.Identity):
    """Replaces a detector's backbone; torchvision reads only its number of channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels


class _FCOSHead(FCOSHead):
    losses: DetectionLosses

    def compute_loss(self, targets: Any, head_outputs: Any, anchors: Any, matched_idxs: Any) -> dict[str, Tensor]:
        losses = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        decode = self.box_coder.decode
        return self.losses.replace_one_stage(losses, decode, targets, head_outputs, anchors, matched_idxs)


class _RetinaNetHead(RetinaNetHead):
    losses: DetectionLosses

    def compute_loss(self, targets: Any, head_outputs: Any, anchors: Any, matched_idxs: Any) -> dict[str, Tensor]:
        losses = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        decode = self.regression_head.box_coder.decode_single
        return self.losses.replace_one_stage(losses, decode, targets, head_outputs, anchors, matched_idxs)


class OneStage(nn.Module):
    """Boxes straight from the pyramid's cells.

    Raw tensors: `cls_logits` ``(B, A, C)``, `bbox_regression` ``(B, A, 4)`` and, with FCOS, `bbox_ctrness`
    ``(B, A, 1)``; shared by all images `anchors` ``(A, 4)``, `counts` (anchors per level) and `size` (H, W).
    """

    def __init__(
        self,
        kind: str,
        pyramid: Pyramid,
        classes: int,
        options: DetectorOptions,
        convs: int = 4,
    ) -> None:
        """
        Args:
            kind: "fcos" (Tian et al. 2019, https://arxiv.org/abs/1904.01355) or "retinanet".
            convs: 3 x 3 convolutions before the outputs.

        Raises:
            UserError: a wrong norm, anchors that do not match the levels, or a wrong loss.
        """
        super().__init__()
        norm = norm_layer(options, kind, NORMS[kind])
        if kind == "fcos" and options.anchor_sizes is not None:
            raise UserError(
                f"{options.key}.anchor_sizes: fcos has no anchors; write {options.key}.detector=retinanet or "
                f"{options.key}.anchor_sizes=null"
            )
        if kind == "retinanet" and not 0 <= convs <= RETINA_CONVS:
            raise UserError(f"{options.key}.convs={convs}: write 0 to {RETINA_CONVS} with detector=retinanet")
        self.pyramid, self.anchor_strides = pyramid, options.anchor_strides
        example = torch.eye(classes).repeat(2, 1)
        losses = DetectionLosses(options, torch.zeros_like(example), example)
        sizes = level_sizes(options, pyramid.strides, [1] if kind == "fcos" else OCTAVES)
        ratios = (1.0,) if kind == "fcos" else RATIOS
        generator = AnchorGenerator(sizes, (ratios,) * len(sizes))
        per_cell = generator.num_anchors_per_location()[0]
        arguments: dict[str, Any] = {
            "anchor_generator": generator,
            "score_thresh": options.score_threshold,
            "detections_per_img": options.max_detections,
            "topk_candidates": options.candidates,
        } | ({} if options.nms_threshold is None else {"nms_thresh": options.nms_threshold})
        if kind == "fcos":
            fcos = _FCOSHead(pyramid.channels, per_cell, classes, num_convs=convs)
            # A ReLU follows the distances to the sides: starting at 0, half of the cells would have no gradient.
            nn.init.constant_(fcos.regression_head.bbox_reg.bias, DISTANCE)
            fcos.losses = losses
            self.model: FCOS | RetinaNet = FCOS(_NoBackbone(pyramid.channels), classes, head=fcos, **arguments)
        else:
            retina = _RetinaNetHead(pyramid.channels, per_cell, classes, norm_layer=norm)
            for part in (retina.classification_head, retina.regression_head):
                part.conv = part.conv[:convs]
            if isinstance(options.box_loss, str):
                retina.regression_head._loss_type = options.box_loss
            retina.losses = losses
            self.model = RetinaNet(_NoBackbone(pyramid.channels), classes, head=retina, **arguments)

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> Raw:
        levels = self.pyramid(maps)
        input_size = size if self.anchor_strides == "image" else None
        anchors, counts = self.pyramid.anchors(self.model.anchor_generator, levels, input_size)
        outputs = {name: output.float() for name, output in self.model.head(levels).items()}
        return {**outputs, "anchors": anchors, "counts": counts, "size": size}

    def class_rows(self) -> dict[str, ClassRows]:
        rows = ClassRows(groups=self.model.head.classification_head.num_anchors)
        return {f"model.head.classification_head.cls_logits.{name}": rows for name in ("weight", "bias")}

    def losses(self, raw: Raw, targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """torchvision's losses of these images; the labels of `targets` begin at 0."""
        anchors = [raw["anchors"]] * len(targets)
        if isinstance(self.model, FCOS):
            return self.model.compute_loss(list(targets), raw, anchors, raw["counts"])
        matches = [self._match(target["boxes"], raw["anchors"]) for target in targets]
        return self.model.head.compute_loss(list(targets), raw, anchors, matches)

    def _match(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """The box of each anchor as an index, or -1, as in RetinaNet's `compute_loss`."""
        if not len(boxes):
            return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
        return self.model.proposal_matcher(iou_in_parts(boxes, anchors))

    def zero_loss(self, raw: Raw) -> Tensor:
        """Zero, connected to the graph of every parameter."""
        return 0 * sum(raw[name].sum() for name in raw if name.startswith(("cls", "bbox")))

    def detect(self, raw: Raw) -> list[dict[str, Tensor]]:
        """`boxes` in pixels of the input, `labels` from 0 and `scores` of every image, best first."""
        images, counts = len(raw["cls_logits"]), raw["counts"]
        outputs = {name: list(raw[name].split(counts, 1)) for name in raw if name.startswith(("cls", "bbox"))}
        anchors = [list(raw["anchors"].split(counts))] * images
        return self.model.postprocess_detections(outputs, anchors, [raw["size"]] * images)

    def graph(self, raw: Raw) -> dict[str, Tensor]:
        """`detect` for a batch of one image, with operations that can be exported."""
        logits, deltas, size = raw["cls_logits"][0], raw["bbox_regression"][0], raw["size"]
        scores = logits.sigmoid()
        if isinstance(self.model, FCOS):
            scores = (scores * raw["bbox_ctrness"][0].sigmoid()).sqrt()
        classes = scores.shape[-1]
        rows = topk_per_level(
            scores.flatten(), [count * classes for count in raw["counts"]], self.model.topk_candidates
        )
        scores = scores.flatten()[rows]
        rows, scores = rows[scores > self.model.score_thresh], scores[scores > self.model.score_thresh]
        anchors = torch.div(rows, classes, rounding_mode="floor")
        coder = self.model.box_coder
        decode = coder.decode if isinstance(self.model, FCOS) else coder.decode_single
        boxes = clip_boxes_to_image(decode(deltas[anchors], raw["anchors"][anchors]), size)
        labels = rows % classes
        rows = select_boxes(boxes, scores, labels, self.model.nms_thresh, self.model.detections_per_img, size)
        rows = rows[rows >= 0]
        return {"boxes": boxes[rows], "scores": scores[rows], "labels": labels[rows]}
