"""What people run into with detectors: images without objects, many objects, and half precision."""

from typing import Any

import pytest
import torch
from drawn_objects import DETECTION, INSTANCES, drawn, total
from torch import Tensor
from torchvision.ops import box_iou

from visiontune.data.targets import objects
from visiontune.models.backbones import Backbone, build
from visiontune.models.heads import DetectionHead, InstancesHead
from visiontune.models.heads import boxes as boxes_module
from visiontune.models.heads.boxes import iou_in_parts

DETECTORS = ("fcos", "retinanet", "faster_rcnn", "instances")
SMALL: dict[str, Any] = {"channels": 32, "hidden": 32, "samples": 32, "proposals": 50}
SIZE = (64, 64)


def parts(detector: str, **options: Any) -> tuple[Backbone, DetectionHead]:
    torch.manual_seed(0)
    backbone, _ = build("small_cnn", weights=None, widths=[8, 16, 32], norm="group")
    if detector == "instances":
        return backbone, InstancesHead(backbone.shape, INSTANCES, **SMALL | options)
    small = SMALL if detector == "faster_rcnn" else {"channels": 64, "convs": 1}
    return backbone, DetectionHead(backbone.shape, DETECTION, detector=detector, **small | options)


def test_overlaps_in_parts_equal_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    corners, sides = torch.rand(23, 2) * 50, torch.rand(23, 2) * 30
    boxes = torch.cat([corners, corners + sides], 1)
    anchors = torch.cat([corners - 3, corners + 12], 1).repeat(30, 1)
    sizes: list[int] = []

    def record(one: Tensor, other: Tensor) -> Tensor:
        sizes.append(len(one) * len(other))
        return box_iou(one, other)

    monkeypatch.setattr(boxes_module, "box_iou", record)
    monkeypatch.setattr(boxes_module, "PAIRS", 4 * len(anchors))
    assert torch.equal(iou_in_parts(boxes, anchors), box_iou(boxes, anchors))
    assert sizes == [4 * 690] * 5 + [3 * 690]  # 23 boxes
    assert iou_in_parts(boxes[:0], anchors).shape == (0, 690) and iou_in_parts(boxes, anchors[:0]).shape == (23, 0)


@pytest.mark.parametrize("detector", DETECTORS[1:])
def test_the_loss_is_the_same_in_parts(detector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, head = parts(detector)
    images, targets = drawn(2)
    with torch.no_grad():
        raw = head(backbone(images))
        expected = head.sample_loss(raw, targets)
        monkeypatch.setattr(boxes_module, "PAIRS", 1)  # one box at a time
        assert torch.equal(head.sample_loss(raw, targets), expected) and expected.isfinite().all()


@pytest.mark.parametrize("detector", DETECTORS)
def test_half_precision_has_the_loss_of_full_precision(detector: str) -> None:
    backbone, head = parts(detector)
    images, targets = drawn(2)
    targets = [targets[0], objects([], [], SIZE, masks=torch.zeros(0, *SIZE) if detector == "instances" else None)]
    torch.manual_seed(1)
    expected = head.loss(head(backbone(images)), targets)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.loss(head(backbone(images)), targets)
    for name, value in expected.items():
        assert losses[name].dtype == torch.float32
        assert losses[name].item() == pytest.approx(value.item(), rel=0.1, abs=0.02), name
    total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("detector", DETECTORS[2:])
@pytest.mark.parametrize("labelled", [True, False])
def test_batchnorm_on_proposals_stays_finite_without_objects(detector: str, labelled: bool) -> None:
    """The convolutions for masks get no proposal at all; BatchNorm has no statistics of nothing."""
    backbone, head = parts(detector, norm="batch", box_convs=1)
    empty = objects([], [], SIZE, masks=torch.zeros(0, *SIZE) if detector == "instances" else None)
    loss = total(head.train().loss(head(backbone(torch.rand(2, 3, *SIZE))), [empty if labelled else None] * 2))
    loss.backward()
    assert loss.isfinite()
    assert all(value.isfinite().all() for value in head.state_dict().values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
