"""Faster R-CNN and Mask R-CNN from torchvision's parts, called one by one.

torchvision's own `forward` gives either losses or predictions, by `training`; these give both from one pass.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image, roi_align
from torchvision.ops.poolers import MultiScaleRoIAlign, initLevelMapper

from visiontune.models.heads.base import Raw
from visiontune.models.heads.boxes import best, highest
from visiontune.models.heads.one_stage import RATIOS
from visiontune.models.heads.pyramid import Pyramid, level_sizes

CANDIDATES = 1000  # of each level, before proposals that overlap are dropped
SMALLEST = 1e-2  # pixels a side of a box
BACKGROUND = 1  # classes before the first one: in here, labels begin at 1


class TwoStage(nn.Module):
    """Proposals from every cell, then a look at each proposal (Ren et al. 2015, https://arxiv.org/abs/1506.01497).

    Raw tensors: `level_0`, ... (the pyramid's maps to pool from), `objectness` ``(B, A)``, `deltas` ``(B, A, 4)``,
    `proposals` ``(B, P, 4)`` with only the first `kept` ``(B,)`` of each image meant; of all images alike
    `anchors` ``(A, 4)`` and `size` (H, W). Thresholds of matching and sampling are torchvision's.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        classes: int,
        masks: bool = False,
        convs: int = 1,
        anchor_sizes: list[float | list[float]] | None = None,
        proposals: int = 300,
        samples: int = 128,
        hidden: int = 512,
        score_threshold: float = 0.05,
        nms_threshold: float | None = None,
        max_detections: int = 100,
    ) -> None:
        """
        Args:
            masks: with a mask for each box (He et al. 2017, https://arxiv.org/abs/1703.06870).
            convs: convolutions with 3 x 3 cells before the proposals.
            proposals: looked at in an image, in training and evaluation alike.
            samples: proposals of an image that the loss is of, a quarter of them positive where there are so many.
            hidden: width of the two layers that look at a box.
        """
        super().__init__()
        self.pyramid = pyramid
        sizes = level_sizes(anchor_sizes, pyramid.strides, [4, 8])
        generator = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
        per_cell = generator.num_anchors_per_location()[0]
        width, outputs = pyramid.channels, classes + BACKGROUND
        self.rpn = RegionProposalNetwork(
            generator,
            RPNHead(width, per_cell, conv_depth=convs),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            # Equal, since these two are what the network would read `training` for.
            pre_nms_top_n={"training": CANDIDATES, "testing": CANDIDATES},
            post_nms_top_n={"training": proposals, "testing": proposals},
            nms_thresh=0.7,
        )
        mask_parts: dict[str, Any] = {}
        if masks:
            mask_parts["mask_roi_pool"] = self._pool(14)
            mask_parts["mask_head"] = MaskRCNNHeads(width, (width,) * 4, dilation=1)
            mask_parts["mask_predictor"] = MaskRCNNPredictor(width, width, outputs)
        self.roi = RoIHeads(
            self._pool(7),
            TwoMLPHead(width * 7 * 7, hidden),
            FastRCNNPredictor(hidden, outputs),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=score_threshold,
            nms_thresh=0.5 if nms_threshold is None else nms_threshold,
            detections_per_img=max_detections,
            **mask_parts,
        )

    def _pool(self, cells: int) -> MultiScaleRoIAlign:
        strides = self.pyramid.strides[: self.pyramid.pooled]
        pool = MultiScaleRoIAlign([str(i) for i in range(len(strides))], cells, sampling_ratio=2)
        # Else it takes powers of two near the first batch's sizes, for good: wrong for patches of 14 pixels.
        pool.scales = [1 / stride for stride in strides]
        pool.map_levels = initLevelMapper(round(math.log2(strides[0])), round(math.log2(strides[-1])))
        return pool

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> Raw:
        levels = self.pyramid(maps)
        anchors, counts = self.pyramid.anchors(self.rpn.anchor_generator, levels)
        pictures = len(levels[0])
        objectness, deltas = concat_box_prediction_layers(*self.rpn.head(levels))
        objectness, deltas = objectness.float().view(pictures, -1), deltas.float().view(pictures, -1, 4)
        with torch.no_grad():
            boxes = self.rpn.box_coder.decode(deltas.flatten(0, 1), [anchors] * pictures).view(pictures, -1, 4)
            found = [self._proposed(*one, counts, size) for one in zip(boxes, objectness, strict=True)]
        return {
            # RoIAlign on the CPU copies what is not contiguous each time that it is called.
            **{f"level_{i}": level.contiguous() for i, level in enumerate(levels[: self.pyramid.pooled])},
            "objectness": objectness,
            "deltas": deltas,
            "proposals": torch.stack([boxes for boxes, _ in found]),
            "kept": torch.stack([kept for _, kept in found]),
            "anchors": anchors,
            "size": size,
        }

    def _proposed(
        self, boxes: Tensor, objectness: Tensor, counts: list[int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """torchvision's `filter_proposals` of one image: ``(proposals, 4)``, and how many of them are meant."""
        rows = highest(objectness, counts, CANDIDATES)
        levels = torch.cat([rows.new_full((count,), i) for i, count in enumerate(counts)])[rows]
        boxes, scores = clip_boxes_to_image(boxes[rows], size), objectness[rows].sigmoid()
        large = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= self.rpn.min_size
        boxes, scores, levels = boxes[large], scores[large], levels[large]
        kept = best(boxes, scores, levels, self.rpn.nms_thresh, self.rpn.post_nms_top_n(), size)
        none = boxes.new_zeros(1, 4)  # row -1
        return torch.cat([boxes, none])[kept], (kept >= 0).sum()

    def losses(self, raw: Raw, targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """torchvision's losses of these images; the labels of `targets` begin at 0."""
        targets = [{**target, "labels": target["labels"] + BACKGROUND} for target in targets]
        anchors = [raw["anchors"]] * len(targets)
        labels, boxes = self.rpn.assign_targets_to_anchors(anchors, targets)
        wanted = self.rpn.box_coder.encode(boxes, anchors)
        objectness, proposal = self.rpn.compute_loss(raw["objectness"], raw["deltas"].flatten(0, 1), labels, wanted)
        sampled, matches, labels, wanted = self.roi.select_training_samples(proposals_of(raw), targets)
        classifier, box = fastrcnn_loss(*self.box_outputs(raw, sampled), labels, wanted)
        found = {
            "loss_objectness": objectness,
            "loss_rpn_box_reg": proposal,
            "loss_classifier": classifier,
            "loss_box_reg": box,
        }
        if self.roi.has_mask():
            positive = [label > 0 for label in labels]
            inside = [part[rows] for part, rows in zip(sampled, positive, strict=True)]
            found["loss_mask"] = maskrcnn_loss(
                self.mask_logits(raw, inside),
                inside,
                [target["masks"] for target in targets],
                [target["labels"] for target in targets],
                [match[rows] for match, rows in zip(matches, positive, strict=True)],
            )
        return found

    def nothing(self, raw: Raw) -> Tensor:
        """Zero, on the graph of every parameter."""
        none = [raw["anchors"][:0]] * len(raw["kept"])
        parts = [raw["objectness"], raw["deltas"], *self.box_outputs(raw, none)]
        parts += [self.mask_logits(raw, none)] if self.roi.has_mask() else []
        return 0 * sum(part.sum() for part in parts)

    def detections(self, raw: Raw) -> list[dict[str, Tensor]]:
        """As `OneStage.detections`; with masks, also `masks` ``(N, 1, 28, 28)``, 0..1 over the box."""
        proposals = proposals_of(raw)
        boxes, scores, labels = self.roi.postprocess_detections(
            *self.box_outputs(raw, proposals), proposals, _sizes(raw)
        )
        found = [
            {"boxes": box, "scores": score, "labels": label - BACKGROUND}
            for box, score, label in zip(boxes, scores, labels, strict=True)
        ]
        if self.roi.has_mask():
            for part, masks in zip(found, maskrcnn_inference(self.mask_logits(raw, boxes), labels), strict=True):
                part["masks"] = masks
        return found

    def graph(self, raw: Raw) -> dict[str, Tensor]:
        """`detections` of the one image in a batch, by operations that an exported graph can hold."""
        proposals, size = raw["proposals"][0], raw["size"]
        logits, deltas = self.box_outputs(raw, [proposals])
        boxes = clip_boxes_to_image(self.roi.box_coder.decode(deltas, [proposals]), size)[:, BACKGROUND:]
        meant = torch.arange(len(proposals), device=boxes.device) < raw["kept"][0]
        scores = logits.softmax(1)[:, BACKGROUND:] * meant[:, None]
        labels = torch.arange(scores.shape[1], device=boxes.device).expand_as(scores).flatten()
        boxes, scores = boxes.flatten(0, 1), scores.flatten()
        seen = (scores > self.roi.score_thresh) & ((boxes[:, 2:] - boxes[:, :2]).amin(1) >= SMALLEST)
        boxes, scores, labels = boxes[seen], scores[seen], labels[seen]
        kept = best(boxes, scores, labels, self.roi.nms_thresh, self.roi.detections_per_img, size)
        kept = kept[kept >= 0]
        found = {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}
        if self.roi.has_mask():
            masks = self.mask_logits(raw, [found["boxes"]]).sigmoid()
            which = found["labels"].view(-1, 1, 1, 1).expand(-1, 1, *masks.shape[2:]) + BACKGROUND
            found["masks"] = masks.gather(1, which)
        return found

    def box_outputs(self, raw: Raw, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits ``(N, C + 1)`` and box deltas ``(N, 4 C + 4)`` of the N boxes of all images."""
        logits, deltas = self.roi.box_predictor(self.roi.box_head(_pooled(self.roi.box_roi_pool, raw, boxes)))
        return logits.float(), deltas.float()

    def mask_logits(self, raw: Raw, boxes: list[Tensor]) -> Tensor:
        """Mask logits ``(N, C + 1, 28, 28)``."""
        return self.roi.mask_predictor(self.roi.mask_head(_pooled(self.roi.mask_roi_pool, raw, boxes))).float()


def _levels(raw: Raw) -> OrderedDict[str, Tensor]:
    return OrderedDict((name.removeprefix("level_"), raw[name]) for name in raw if name.startswith("level_"))


def _pooled(pool: MultiScaleRoIAlign, raw: Raw, boxes: list[Tensor]) -> Tensor:
    """``(N, channels, cells, cells)`` of the N boxes of all images."""
    levels = _levels(raw)
    if not torch.compiler.is_exporting():
        return pool(levels, boxes, _sizes(raw))
    (own,) = boxes  # torchvision's own asks how many they are
    where = pool.map_levels([own])
    rois = torch.cat([own.new_zeros(own.shape[0], 1), own], 1)
    pooled = own.new_zeros(own.shape[0], raw["level_0"].shape[1], *pool.output_size)
    for i, (level, scale) in enumerate(zip(levels.values(), pool.scales, strict=True)):
        rows = (where == i).nonzero()[:, 0]
        part = roi_align(level, rois[rows], pool.output_size, scale, pool.sampling_ratio)
        pooled = pooled.index_put((rows,), part)
    return pooled


def _sizes(raw: Raw) -> list[tuple[int, int]]:
    return [raw["size"]] * len(raw["kept"])


def proposals_of(raw: Raw) -> list[Tensor]:
    return [boxes[:kept] for boxes, kept in zip(raw["proposals"], raw["kept"].tolist(), strict=True)]
