"""Distances between the outputs of two detectors for the same images, for distillation."""

import torch
from torch import Tensor
from torch.nn import functional as F

from visiontune.errors import UserError
from visiontune.models.heads.base import Raw
from visiontune.models.heads.one_stage import OneStage
from visiontune.models.heads.roi_pooling import split_proposals
from visiontune.models.heads.soft_targets import kl_distillation_loss
from visiontune.models.heads.two_stage import BACKGROUND, TwoStage


def distill_one_stage(student: OneStage, raw: Raw, teacher: OneStage, teacher_outputs: Raw) -> Tensor:
    """Distance of the class scores of all cells, and of the teacher's boxes, each weighted by its score.

    The loss of a cell's score is weighted by its squared error (Li et al. 2020, https://arxiv.org/abs/2006.04388),
    since nearly all cells are background for both detectors. The result is a mean over the teacher's boxes.

    Raises:
        UserError: the cells or anchors of the two differ.
    """
    if type(student.model) is not type(teacher.model) or not torch.equal(raw["anchors"], teacher_outputs["anchors"]):
        raise UserError(
            "distill.teacher: its anchors differ from this run's; write the teacher's data.image_size, and its "
            "detector, min_stride and anchor_sizes of heads.detection"
        )
    probabilities = teacher_outputs["cls_logits"].sigmoid()
    score = probabilities.amax(2)
    if "bbox_ctrness" in teacher_outputs:
        score = (score * teacher_outputs["bbox_ctrness"][..., 0].sigmoid()).sqrt()
    weight = score * (score > teacher.model.score_thresh)
    error = (raw["cls_logits"].sigmoid() - probabilities).square()
    total = (error * _binary_divergence(raw["cls_logits"], probabilities)).sum()
    total = total + (weight * _side_losses(raw["bbox_regression"], teacher_outputs["bbox_regression"])).sum()
    if "bbox_ctrness" in teacher_outputs:
        centerness = _binary_divergence(raw["bbox_ctrness"], teacher_outputs["bbox_ctrness"].sigmoid())
        total = total + (weight * centerness[..., 0]).sum()
    return total / weight.sum().clamp_min(1)


def distill_two_stage(
    student: TwoStage, raw: Raw, teacher: TwoStage, teacher_outputs: Raw, temperature: float
) -> Tensor:
    """Distance of the classes, boxes and masks of the student's proposals (Chen et al. 2017, NeurIPS).

    The proposals themselves learn only from labels.
    """
    count = student.roi.fg_bg_sampler.batch_size_per_image
    boxes = [proposals[:count] for proposals in split_proposals(raw)]  # best first
    (height, width), (teacher_height, teacher_width) = raw["size"], teacher_outputs["size"]
    scale = [teacher_width / width, teacher_height / height] * 2
    scaled = [box * box.new_tensor(scale) for box in boxes]
    logits, deltas = student.box_outputs(raw, boxes)
    with torch.no_grad():
        teacher_logits, teacher_deltas = teacher.box_outputs(teacher_outputs, scaled)
    scores = teacher_logits.softmax(1)[:, BACKGROUND:]
    shape = (*teacher_logits.shape, 4)
    sides = _side_losses(deltas.view(shape), teacher_deltas.view(shape))[:, BACKGROUND:]
    box = (scores * sides).sum() / scores.sum().clamp_min(1)
    total = kl_distillation_loss(logits, teacher_logits, temperature) + box
    if student.roi.has_mask():
        total = total + _distill_masks(student, raw, teacher, teacher_outputs, boxes, scaled, scores)
    return total


def _distill_masks(
    student: TwoStage,
    raw: Raw,
    teacher: TwoStage,
    teacher_outputs: Raw,
    boxes: list[Tensor],
    scaled: list[Tensor],
    scores: Tensor,
) -> Tensor:
    """Distance of the masks of those boxes that have the highest teacher scores in each image.

    Their number is the largest number of positives in the loss.
    """
    sampler = student.roi.fg_bg_sampler
    count = int(sampler.batch_size_per_image * sampler.positive_fraction)
    score, label = scores.max(1)
    best = [image.topk(min(count, len(image))).indices for image in score.split([len(box) for box in boxes])]
    logits = student.mask_logits(raw, [box[rows] for box, rows in zip(boxes, best, strict=True)])
    with torch.no_grad():
        teacher_logits = teacher.mask_logits(
            teacher_outputs, [box[rows] for box, rows in zip(scaled, best, strict=True)]
        )
    starts = torch.tensor([0, *(len(box) for box in boxes[:-1])]).cumsum(0).tolist()
    rows = torch.cat([image + start for image, start in zip(best, starts, strict=True)])
    index = torch.arange(len(rows), device=rows.device), label[rows] + BACKGROUND
    losses = _binary_divergence(logits[index], teacher_logits[index].sigmoid()).mean((1, 2))
    return (score[rows] * losses).sum() / score[rows].sum().clamp_min(1)


def _side_losses(deltas: Tensor, teacher_deltas: Tensor) -> Tensor:
    """``(..., 4)`` -> ``(...)``."""
    return F.smooth_l1_loss(deltas, teacher_deltas, reduction="none").sum(-1)


def _binary_divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy minus the entropy of the target: 0 if both agree."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return cross_entropy - torch.special.entr(target) - torch.special.entr(1 - target)
