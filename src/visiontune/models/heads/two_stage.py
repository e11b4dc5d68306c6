"""Faster R-CNN and Mask R-CNN from torchvision's parts, called one by one.

torchvision's `forward` returns either losses or predictions, depending on `training`; this class computes both from
one pass.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image

from visiontune.models.heads.base import Raw
from visiontune.models.heads.boxes import iou_in_parts, select_boxes, topk_per_level
from visiontune.models.heads.class_rows import ClassRows
from visiontune.models.heads.detection_losses import DetectionLosses
from visiontune.models.heads.detector_options import DetectorOptions
from visiontune.models.heads.norm_layers import norm_layer
from visiontune.models.heads.one_stage import RATIOS
from visiontune.models.heads.pyramid import Pyramid, level_sizes
from visiontune.models.heads.roi_pooling import build_pool, input_sizes, pool_boxes, split_proposals

CELLS = 7  # per side of a box's features
MIN_SIDE = 1e-2  # of a box, in pixels
BACKGROUND = 1  # number of background classes: torchvision's labels start at 1
NORMS = ("none", "batch", "group")


class TwoStage(nn.Module):
    """Proposals from every cell, then a class and a box for each proposal (Ren et al. 2015,
    https://arxiv.org/abs/1506.01497).

    Raw tensors: `level_0`, ... (the pyramid's maps to pool from), `objectness` ``(B, A)``, `deltas` ``(B, A, 4)``,
    `proposals` ``(B, P, 4)``, of which the first `kept` ``(B,)`` of each image are valid; shared by all images
    `anchors` ``(A, 4)`` and `size` (H, W). Thresholds of matching and sampling are torchvision's.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        classes: int,
        options: DetectorOptions,
        masks: bool = False,
        convs: int = 1,
        proposals: int = 300,
        proposal_threshold: float = 0.0,
        samples: int = 128,
        box_convs: int = 0,
        hidden: int = 512,
    ) -> None:
        """
        Args:
            masks: whether each box has a mask (He et al. 2017, https://arxiv.org/abs/1703.06870).
            convs: 3 x 3 convolutions before the proposals.
            proposals: largest number per image, in training and evaluation.
            proposal_threshold: proposals with a lower score, 0..1, are dropped.
            samples: proposals per image in the loss, at most a quarter of them positive.
            box_convs: 3 x 3 convolutions on each proposal, before one layer; 0 = two layers without convolutions.
            hidden: width of these layers.

        Raises:
            UserError: a wrong norm, anchors that do not match the levels, or a wrong loss.
        """
        super().__init__()
        norm = norm_layer(options, "faster_rcnn", NORMS)
        self.pyramid, self.anchor_strides = pyramid, options.anchor_strides
        sizes = level_sizes(options, pyramid.strides, [4, 8])
        generator = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
        per_cell = generator.num_anchors_per_location()[0]
        width, outputs = pyramid.channels, classes + BACKGROUND
        # The attribute's name is part of the keys of checkpoints.
        self.replaced = DetectionLosses(options, torch.zeros(2, outputs), torch.tensor([0, 1]))
        self.rpn = RegionProposalNetwork(
            generator,
            RPNHead(width, per_cell, conv_depth=convs),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            # Equal, so that nothing depends on `training`.
            pre_nms_top_n=dict.fromkeys(("training", "testing"), options.candidates),
            post_nms_top_n=dict.fromkeys(("training", "testing"), proposals),
            nms_thresh=0.7,
            score_thresh=proposal_threshold,
        )
        self.rpn.box_similarity = iou_in_parts
        pooled = pyramid.strides[: pyramid.pooled]
        mask_parts: dict[str, Any] = {}
        if masks:
            mask_parts["mask_roi_pool"] = build_pool(pooled, 14)
            mask_parts["mask_head"] = MaskRCNNHeads(width, (width,) * 4, dilation=1, norm_layer=norm)
            mask_parts["mask_predictor"] = MaskRCNNPredictor(width, width, outputs)
        box_head: nn.Module = TwoMLPHead(width * CELLS * CELLS, hidden)
        if box_convs:
            box_head = FastRCNNConvFCHead((width, CELLS, CELLS), [width] * box_convs, [hidden], norm_layer=norm)
        self.roi = RoIHeads(
            build_pool(pooled, CELLS),
            box_head,
            FastRCNNPredictor(hidden, outputs),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=options.score_threshold,
            nms_thresh=0.5 if options.nms_threshold is None else options.nms_threshold,
            detections_per_img=options.max_detections,
            **mask_parts,
        )

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> Raw:
        levels = self.pyramid(maps)
        input_size = size if self.anchor_strides == "image" else None
        anchors, counts = self.pyramid.anchors(self.rpn.anchor_generator, levels, input_size)
        images = len(levels[0])
        objectness, deltas = concat_box_prediction_layers(*self.rpn.head(levels))
        objectness, deltas = objectness.float().view(images, -1), deltas.float().view(images, -1, 4)
        with torch.no_grad():
            boxes = self.rpn.box_coder.decode(deltas.flatten(0, 1), [anchors] * images).view(images, -1, 4)
            proposals = [self._select_proposals(*image, counts, size) for image in zip(boxes, objectness, strict=True)]
        return {
            # At each call, RoIAlign on the CPU would copy maps that are not contiguous.
            **{f"level_{i}": level.contiguous() for i, level in enumerate(levels[: self.pyramid.pooled])},
            "objectness": objectness,
            "deltas": deltas,
            "proposals": torch.stack([boxes for boxes, _ in proposals]),
            "kept": torch.stack([count for _, count in proposals]),
            "anchors": anchors,
            "size": size,
        }

    def _select_proposals(
        self, boxes: Tensor, objectness: Tensor, counts: list[int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """torchvision's `filter_proposals` for one image: ``(proposals, 4)``, and the number of valid proposals."""
        rows = topk_per_level(objectness, counts, self.rpn.pre_nms_top_n())
        levels = torch.cat([rows.new_full((count,), i) for i, count in enumerate(counts)])[rows]
        boxes, scores = clip_boxes_to_image(boxes[rows], size), objectness[rows].sigmoid()
        valid = ((boxes[:, 2:] - boxes[:, :2]).amin(1) >= self.rpn.min_size) & (scores >= self.rpn.score_thresh)
        boxes, scores, levels = boxes[valid], scores[valid], levels[valid]
        rows = select_boxes(boxes, scores, levels, self.rpn.nms_thresh, self.rpn.post_nms_top_n(), size)
        padding = boxes.new_zeros(1, 4)  # row -1
        return torch.cat([boxes, padding])[rows], (rows >= 0).sum()

    def class_rows(self) -> dict[str, ClassRows]:
        rows = {"roi.box_predictor.cls_score": 1, "roi.box_predictor.bbox_pred": 4}
        rows |= {"roi.mask_predictor.mask_fcn_logits": 1} if self.roi.has_mask() else {}
        return {
            f"{layer}.{name}": ClassRows(per_class=per_class, offset=BACKGROUND)
            for layer, per_class in rows.items()
            for name in ("weight", "bias")
        }

    def losses(self, raw: Raw, targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """torchvision's losses of these images; the labels of `targets` start at 0."""
        targets = [{**target, "labels": target["labels"] + BACKGROUND} for target in targets]
        anchors = [raw["anchors"]] * len(targets)
        labels, boxes = self.rpn.assign_targets_to_anchors(anchors, targets)
        box_targets = self.rpn.box_coder.encode(boxes, anchors)
        objectness, proposal = self.rpn.compute_loss(
            raw["objectness"], raw["deltas"].flatten(0, 1), labels, box_targets
        )
        sampled, matches, labels, box_targets = self.roi.select_training_samples(split_proposals(raw), targets)
        outputs = self.box_outputs(raw, sampled)
        classifier, box = self.replaced.replace_two_stage(
            fastrcnn_loss(*outputs, labels, box_targets), self.roi, outputs, sampled, labels, box_targets
        )
        losses = {
            "loss_objectness": objectness,
            "loss_rpn_box_reg": proposal,
            "loss_classifier": classifier,
            "loss_box_reg": box,
        }
        if self.roi.has_mask():
            positive = [label > 0 for label in labels]
            boxes = [image[rows] for image, rows in zip(sampled, positive, strict=True)]
            # Without the masks of other objects, since torchvision converts all of them to floats.
            matched = [match[rows].unique(return_inverse=True) for match, rows in zip(matches, positive, strict=True)]
            objects = [(target, rows) for target, (rows, _) in zip(targets, matched, strict=True)]
            losses["loss_mask"] = maskrcnn_loss(
                self.mask_logits(raw, boxes),
                boxes,
                [target["masks"][rows] for target, rows in objects],
                [target["labels"][rows] for target, rows in objects],
                [index for _, index in matched],
            )
        return losses

    def zero_loss(self, raw: Raw) -> Tensor:
        """Zero, connected to the graph of every parameter."""
        no_boxes = [raw["anchors"][:0]] * len(raw["kept"])
        outputs = [raw["objectness"], raw["deltas"], *self.box_outputs(raw, no_boxes)]
        outputs += [self.mask_logits(raw, no_boxes)] if self.roi.has_mask() else []
        return 0 * sum(output.sum() for output in outputs)

    def detect(self, raw: Raw) -> list[dict[str, Tensor]]:
        """As `OneStage.detect`; with masks, also `masks` ``(N, 1, 28, 28)``, 0..1 over the box."""
        proposals = split_proposals(raw)
        boxes, scores, labels = self.roi.postprocess_detections(
            *self.box_outputs(raw, proposals), proposals, input_sizes(raw)
        )
        detections = [
            {"boxes": box, "scores": score, "labels": label - BACKGROUND}
            for box, score, label in zip(boxes, scores, labels, strict=True)
        ]
        if self.roi.has_mask():
            masks = maskrcnn_inference(self.mask_logits(raw, boxes), labels)
            for objects, mask in zip(detections, masks, strict=True):
                objects["masks"] = mask
        return detections

    def graph(self, raw: Raw) -> dict[str, Tensor]:
        """`detect` for a batch of one image, with operations that can be exported."""
        proposals, size = raw["proposals"][0], raw["size"]
        logits, deltas = self.box_outputs(raw, [proposals])
        boxes = clip_boxes_to_image(self.roi.box_coder.decode(deltas, [proposals]), size)[:, BACKGROUND:]
        valid = torch.arange(len(proposals), device=boxes.device) < raw["kept"][0]
        scores = logits.softmax(1)[:, BACKGROUND:] * valid[:, None]
        labels = torch.arange(scores.shape[1], device=boxes.device).expand_as(scores).flatten()
        boxes, scores = boxes.flatten(0, 1), scores.flatten()
        large = (scores > self.roi.score_thresh) & ((boxes[:, 2:] - boxes[:, :2]).amin(1) >= MIN_SIDE)
        boxes, scores, labels = boxes[large], scores[large], labels[large]
        rows = select_boxes(boxes, scores, labels, self.roi.nms_thresh, self.roi.detections_per_img, size)
        rows = rows[rows >= 0]
        objects = {"boxes": boxes[rows], "scores": scores[rows], "labels": labels[rows]}
        if self.roi.has_mask():
            masks = self.mask_logits(raw, [objects["boxes"]]).sigmoid()
            index = objects["labels"].view(-1, 1, 1, 1).expand(-1, 1, *masks.shape[2:]) + BACKGROUND
            objects["masks"] = masks.gather(1, index)
        return objects

    def box_outputs(self, raw: Raw, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits ``(N, C + 1)`` and box deltas ``(N, 4 C + 4)`` of the N boxes of all images."""
        logits, deltas = self.roi.box_predictor(self.roi.box_head(pool_boxes(self.roi.box_roi_pool, raw, boxes)))
        return logits.float(), deltas.float()

    def mask_logits(self, raw: Raw, boxes: list[Tensor]) -> Tensor:
        """Mask logits ``(N, C + 1, 28, 28)``."""
        return self.roi.mask_predictor(self.roi.mask_head(pool_boxes(self.roi.mask_roi_pool, raw, boxes))).float()
