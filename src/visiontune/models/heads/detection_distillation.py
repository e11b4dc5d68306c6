"""Distances between what two detectors give for the same images: one of them learns from the other."""

import torch
from torch import Tensor
from torch.nn import functional as F

from visiontune.errors import UserError
from visiontune.models.heads.base import Raw
from visiontune.models.heads.one_stage import OneStage
from visiontune.models.heads.soft_targets import kl_distillation_loss
from visiontune.models.heads.two_stage import BACKGROUND, TwoStage, proposals_of


def one_stage_apart(student: OneStage, raw: Raw, teacher: OneStage, taught: Raw) -> Tensor:
    """Class scores of all cells, and sides of the boxes that the teacher would give, each weighted by its score.

    A cell's scores count by the square of how far they are off (Li et al. 2020, https://arxiv.org/abs/2006.04388):
    nearly all of them are background to both. Everything is a mean over the teacher's boxes.

    Raises:
        UserError: the cells or anchors of the two are not the same.
    """
    if type(student.model) is not type(teacher.model) or not torch.equal(raw["anchors"], taught["anchors"]):
        raise UserError(
            "distill.teacher: its boxes stand for other cells than this run's; write the teacher's data.image_size, "
            "and of heads.detection its detector, finest and anchor_sizes"
        )
    given = taught["cls_logits"].sigmoid()
    score = given.amax(2)
    if "bbox_ctrness" in taught:
        score = (score * taught["bbox_ctrness"][..., 0].sigmoid()).sqrt()
    sure = score * (score > teacher.model.score_thresh)
    off = (raw["cls_logits"].sigmoid() - given).square()
    apart = (off * _cross_entropy(raw["cls_logits"], given)).sum()
    apart = apart + (sure * _sides(raw["bbox_regression"], taught["bbox_regression"])).sum()
    if "bbox_ctrness" in taught:
        centred = _cross_entropy(raw["bbox_ctrness"], taught["bbox_ctrness"].sigmoid())
        apart = apart + (sure * centred[..., 0]).sum()
    return apart / sure.sum().clamp_min(1)


def two_stage_apart(student: TwoStage, raw: Raw, teacher: TwoStage, taught: Raw, temperature: float) -> Tensor:
    """Both look at the student's proposals (Chen et al. 2017, NeurIPS): classes, sides of boxes, and masks.

    The proposals themselves are learned from labels alone.
    """
    count = student.roi.fg_bg_sampler.batch_size_per_image
    boxes = [proposed[:count] for proposed in proposals_of(raw)]  # best first
    (height, width), (high, wide) = raw["size"], taught["size"]
    moved = [box * box.new_tensor([wide / width, high / height] * 2) for box in boxes]
    logits, deltas = student.box_outputs(raw, boxes)
    with torch.no_grad():
        given, moves = teacher.box_outputs(taught, moved)
    sure = given.softmax(1)[:, BACKGROUND:]
    sides = _sides(*(part.view(*given.shape, 4) for part in (deltas, moves)))[:, BACKGROUND:]
    apart = kl_distillation_loss(logits, given, temperature) + (sure * sides).sum() / sure.sum().clamp_min(1)
    return apart + _masks_apart(student, raw, teacher, taught, boxes, moved, sure) if student.roi.has_mask() else apart


def _masks_apart(
    student: TwoStage, raw: Raw, teacher: TwoStage, taught: Raw, boxes: list[Tensor], moved: list[Tensor], sure: Tensor
) -> Tensor:
    """Of the boxes in which the teacher is surest of an object, as many an image as the loss is of at most."""
    sampler = student.roi.fg_bg_sampler
    most = int(sampler.batch_size_per_image * sampler.positive_fraction)
    score, label = sure.max(1)
    parts = [part.topk(min(most, len(part))).indices for part in score.split([len(box) for box in boxes])]
    own = student.mask_logits(raw, [box[rows] for box, rows in zip(boxes, parts, strict=True)])
    with torch.no_grad():
        given = teacher.mask_logits(taught, [box[rows] for box, rows in zip(moved, parts, strict=True)])
    starts = torch.tensor([0, *(len(box) for box in boxes[:-1])]).cumsum(0).tolist()
    rows = torch.cat([part + start for part, start in zip(parts, starts, strict=True)])
    each, which = torch.arange(len(rows), device=rows.device), label[rows] + BACKGROUND
    apart = _cross_entropy(own[each, which], given[each, which].sigmoid()).mean((1, 2))
    return (score[rows] * apart).sum() / score[rows].sum().clamp_min(1)


def _sides(own: Tensor, given: Tensor) -> Tensor:
    """``(..., 4)`` -> ``(...)``."""
    return F.smooth_l1_loss(own, given, reduction="none").sum(-1)


def _cross_entropy(logits: Tensor, given: Tensor) -> Tensor:
    """Less the entropy of what is given: 0 where both say the same."""
    own = F.binary_cross_entropy_with_logits(logits, given, reduction="none")
    return own - torch.special.entr(given) - torch.special.entr(1 - given)
