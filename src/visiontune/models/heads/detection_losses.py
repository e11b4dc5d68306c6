"""Losses of detectors from the config, instead of torchvision's.

`classification_loss` is called as ``module(logits, targets)``:

- fcos and retinanet: logits ``(N, C)`` and targets ``(N, C)`` of 0 and 1, of all cells or anchors of a batch that are
  positive or negative;
- faster_rcnn and instances: logits ``(N, C + 1)`` and classes ``(N,)`` int64, 0 for background, of the sampled
  proposals.

`box_loss` is called as ``module(boxes, targets)``, both ``(P, 4)`` xyxy in pixels of the input, of all positive
cells, anchors or proposals of a batch.

Both return a value per row or per element, or a scalar. Values are summed and divided by the number of positives, in
faster_rcnn by the number of sampled proposals; a scalar is used unchanged. If the module has `reduction`, it is set to
"none". The losses of centerness, proposals and masks are torchvision's.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads

from visiontune.models.heads.detector_options import DetectorOptions
from visiontune.models.heads.losses import ModuleLoss


class DetectionLosses(nn.Module):
    """The modules of `classification_loss` and `box_loss`; None keeps torchvision's loss.

    Args:
        logits, targets: an example for the classification loss.

    Raises:
        UserError: a module does not accept its example.
    """

    def __init__(self, options: DetectorOptions, logits: Tensor, targets: Tensor) -> None:
        super().__init__()
        boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [2.0, 2.0, 6.0, 9.0]])
        self.classification, self.box = (
            ModuleLoss(module, f"{options.key}.{name}", *example) if isinstance(module, nn.Module) else None
            for module, name, example in (
                (options.classification_loss, "classification_loss", (logits, targets)),
                (options.box_loss, "box_loss", (boxes, boxes)),
            )
        )

    def replace_one_stage(
        self,
        losses: dict[str, Tensor],
        decode: Callable[[Tensor, Tensor], Tensor],
        targets: list[dict[str, Tensor]],
        outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matches: list[Tensor],
    ) -> dict[str, Tensor]:
        """Replace torchvision's losses by those of the modules.

        Args:
            decode: from deltas and anchors ``(P, 4)`` to boxes.
            matches: for each image, the index of the target of each anchor ``(A,)``; -1 is negative, -2 ignored.
        """
        matched = torch.stack(matches)
        positive = matched >= 0
        count = positive.sum().clamp_min(1)
        images, rows = positive.nonzero(as_tuple=True)
        truths = [
            {name: target[name][match[match >= 0]] for name in ("boxes", "labels")}
            for target, match in zip(targets, matches, strict=True)
        ]
        module_losses: dict[str, Tensor] = {}
        if self.classification is not None:
            one_hot = torch.zeros_like(outputs["cls_logits"])
            one_hot[images, rows, torch.cat([truth["labels"] for truth in truths])] = 1.0
            valid = matched != -2
            logits = outputs["cls_logits"][valid]
            module_losses["classification"] = _total(self.classification, logits, one_hot[valid], count)
        if self.box is not None:
            boxes = decode(outputs["bbox_regression"][images, rows], torch.stack(anchors)[images, rows])
            module_losses["bbox_regression"] = _total(self.box, boxes, torch.cat([t["boxes"] for t in truths]), count)
        return losses | module_losses

    def replace_two_stage(
        self,
        losses: tuple[Tensor, Tensor],
        roi: RoIHeads,
        outputs: tuple[Tensor, Tensor],
        proposals: list[Tensor],
        labels: list[Tensor],
        box_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Replace the two losses of torchvision's `fastrcnn_loss`, which are over the sampled proposals."""
        classes = torch.cat(labels)
        logits, deltas = outputs
        classification, box = losses
        count = torch.tensor(max(1, len(classes)), device=classes.device)
        if self.classification is not None:
            classification = _total(self.classification, logits, classes, count)
        if self.box is not None:
            positive = classes > 0
            boxes = roi.box_coder.decode(deltas, proposals)[positive, classes[positive]]
            truth = roi.box_coder.decode(torch.cat(box_targets), proposals)[positive, 0]
            box = _total(self.box, boxes, truth, count)
        return classification, box


def _total(loss: ModuleLoss, predictions: Tensor, targets: Tensor, count: Tensor) -> Tensor:
    if not len(predictions):
        return 0 * predictions.sum()
    values = loss.call(predictions, targets)
    return values if values.ndim == 0 else values.sum() / count
