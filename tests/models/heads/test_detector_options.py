"""Options of detectors and of torchvision's backbones that pretrained models need: norms, anchors, rows of classes."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from drawn_objects import CLASSES, DETECTION, INSTANCES, drawn, total
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from visiontune.data.schema import TaskInfo
from visiontune.errors import UserError
from visiontune.models.backbones import build
from visiontune.models.features import FeatureShape
from visiontune.models.heads import DetectionHead, InstancesHead
from visiontune.models.heads.norm_layers import BatchNorm
from visiontune.models.heads.pyramid import Pyramid

SHAPE = FeatureShape([8, 16, 32], [8, 16, 32], 32)
SMALL = {"channels": 64, "hidden": 32, "proposals": 20, "samples": 16}


def maps(count: int, side: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [
        torch.randn(count, c, side // s, side // s, generator=random)
        for c, s in zip(SHAPE.channels, SHAPE.strides, strict=True)
    ]


def instances(**options: Any) -> InstancesHead:
    torch.manual_seed(0)
    return InstancesHead(SHAPE, INSTANCES, **SMALL | options)


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items() if "running" in key}


@pytest.mark.parametrize(
    ("norm", "expected"),
    [(None, {}), ("batch", {BatchNorm: 6 + 1 + 4}), ("group", {nn.GroupNorm: 6 + 1 + 4})],
)
def test_norms_of_a_faster_rcnn_are_in_its_pyramid_and_on_its_proposals(
    norm: str | None, expected: Mapping[type, int]
) -> None:
    modules = [type(module) for module in instances(norm=norm, box_convs=1).modules()]
    assert {kind: modules.count(kind) for kind in (BatchNorm, nn.GroupNorm) if kind in modules} == expected


def test_a_batch_without_boxes_does_not_change_the_statistics_of_its_batchnorm() -> None:
    head = instances(norm="batch", box_convs=1).train()
    raw = head.detector(maps(2, 64), (64, 64))
    before = statistics(head.detector.roi)
    loss = total(head.loss(raw, [None, None]))
    loss.backward()
    assert float(loss.detach()) == 0 and len(before) == 2 * (1 + 4)
    after = statistics(head.detector.roi)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_batchnorm_of_a_single_cell_uses_its_statistics() -> None:
    norm = BatchNorm(3).train()
    values = torch.randn(4, 3, 2, 2)
    reference = nn.BatchNorm2d(3).train()
    torch.testing.assert_close(norm(values), reference(values))
    assert torch.equal(norm.running_mean, reference.running_mean)
    torch.testing.assert_close(norm(values[:1, :, :1, :1]), reference.eval()(values[:1, :, :1, :1]))


def test_anchors_by_the_size_of_the_image_are_torchvisions() -> None:
    pyramid = Pyramid(SHAPE, channels=16)
    generator = AnchorGenerator(tuple((stride,) for stride in pyramid.strides), ((0.5, 1.0),) * 5)
    height, width = 96, 160  # no multiples of 64 and 128
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32, 64, 128)]
    levels = [torch.zeros(1, 16, *size) for size in sizes]
    (expected,) = generator(ImageList(torch.zeros(1, 3, height, width), [(height, width)]), levels)
    anchors, _ = pyramid.anchors(generator, levels, (height, width))
    assert torch.equal(anchors, expected)
    assert not torch.equal(pyramid.anchors(generator, levels)[0], expected)


@pytest.mark.parametrize("detector", ["fcos", "retinanet"])
def test_coarse_levels_come_from_the_backbone_if_wanted(detector: str) -> None:
    torch.manual_seed(0)
    head = DetectionHead(SHAPE, DETECTION, detector, channels=64, convs=1, extra_levels="backbone")
    extra: Any = head.detector.pyramid.extra
    inputs = maps(1, 64)
    levels = head.detector.pyramid(inputs)
    assert torch.equal(levels[-2], extra.p6(inputs[-1])) and extra.p6.in_channels == 32


def test_maps_of_one_stride_and_several_widths_are_a_pyramid() -> None:
    pyramid = Pyramid(FeatureShape([8, 24], [32, 32], 24), channels=16, extra="pool")
    levels = pyramid([torch.rand(1, 8, 2, 3), torch.rand(1, 24, 2, 3)])
    assert pyramid.strides == [32, 32, 64] and pyramid.pooled == 2
    assert [tuple(level.shape[2:]) for level in levels] == [(2, 3), (2, 3), (1, 2)]


def test_proposals_with_a_low_score_are_dropped() -> None:
    raw = instances().detector(maps(1, 64), (64, 64))
    head = instances(proposal_threshold=0.5)
    kept = head.detector(maps(1, 64), (64, 64))
    score = raw["objectness"].sigmoid()
    assert torch.equal(kept["objectness"], raw["objectness"]) and 0 < int((score > 0.5).sum()) < score.numel()
    none = instances(proposal_threshold=0.99).detector(maps(1, 64), (64, 64))
    assert int(raw["kept"]) == 20 and int(none["kept"]) == 0
    (objects,) = head.detector.detect(none)
    assert len(objects["boxes"]) == len(objects["masks"]) == 0


@pytest.mark.parametrize("detector", ["fcos", "retinanet", "faster_rcnn", "instances"])
def test_rows_of_a_class_give_its_scores_boxes_and_masks(detector: str) -> None:
    """From three classes to two in another order, the second of them unknown."""
    torch.manual_seed(0)
    two_stage = detector in ("faster_rcnn", "instances")
    options: dict[str, Any] = SMALL if two_stage else {"channels": 64, "convs": 1}
    kind = InstancesHead if detector == "instances" else DetectionHead
    options = options if detector == "instances" else {**options, "detector": detector}
    offset = int(two_stage)
    old, new = (
        kind(SHAPE, TaskInfo("", names), **options) for names in (["disc", "cat", CLASSES[0]], [*CLASSES[:1], "x"])
    )
    state, target = old.state_dict(), new.state_dict()
    for name, rows in new.class_rows().items():
        merged = rows.copy(state[name], target[name], 3 + offset, {0: 2 + offset})
        assert merged is not None, name
        state[name] = merged
    fresh = {name: value.clone() for name, value in target.items() if name in new.class_rows()}
    new.load_state_dict(state)
    raws = [head.detector(maps(1, 64), (64, 64)) for head in (old, new)]
    if not two_stage:
        for name, old_class, new_class in (("cls_logits", 2, 0),):
            assert torch.equal(raws[0][name][..., old_class], raws[1][name][..., new_class])
        for name, value in fresh.items():
            groups = new.class_rows()[name].groups
            assert torch.equal(state[name].unflatten(0, (groups, 2))[:, 1], value.unflatten(0, (groups, 2))[:, 1])
        return
    boxes = [raws[0]["proposals"][0]]
    (before, deltas), (after, changed) = (
        head.detector.box_outputs(raw, boxes) for head, raw in zip((old, new), raws, strict=True)
    )
    torch.testing.assert_close(after[:, [0, 1]], before[:, [0, 3]])
    torch.testing.assert_close(changed.unflatten(1, (3, 4))[:, 1], deltas.unflatten(1, (4, 4))[:, 3])
    if detector == "instances":
        masks = [head.detector.mask_logits(raw, boxes) for head, raw in zip((old, new), raws, strict=True)]
        torch.testing.assert_close(masks[1][:, 1], masks[0][:, 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "batch"}, "heads.detection.norm=batch with detector=fcos: write group"),
        ({"detector": "retinanet", "norm": "batch"}, "norm=batch with detector=retinanet: write group or none"),
        ({"detector": "faster_rcnn", "norm": "frozen"}, "with detector=faster_rcnn: write none or batch or group"),
        ({"detector": "faster_rcnn", "norm": "group", "channels": 48}, "channels=48 with detector=faster_rcnn: write"),
        ({"box_convs": 4}, "box_convs is an option of detector=faster_rcnn, not of detector=fcos"),
        ({"detector": "faster_rcnn", "extra_levels": "backbone"}, "extra_levels is an option of detector=fcos and det"),
        ({"extra_levels": "p5"}, "heads.detection.extra_levels=p5: write pyramid or backbone"),
        ({"anchor_strides": 8}, "heads.detection.anchor_strides=8: write level or image"),
        ({"box_loss": "giou"}, "box_loss=giou with detector=fcos: write null, or a module such as {_target_: "),
        ({"detector": "retinanet", "box_loss": "iou"}, "with detector=retinanet: write one of l1, smooth_l1, giou"),
        ({"chanels": 64}, "heads.detection.chanels: a detector has no such option; near it: heads.detection.channels"),
        ({"candidates": 0}, "heads.detection.candidates=0: write 1 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        DetectionHead(SHAPE, DETECTION, **options)


def test_options_of_instances() -> None:
    head: Any = InstancesHead(SHAPE, INSTANCES)
    assert head.detector.roi.fg_bg_sampler.batch_size_per_image == 64
    message = "heads.instances.transformer is an option of detector=rf_detr, not of detector=mask_rcnn"
    with pytest.raises(UserError, match=message):
        InstancesHead(SHAPE, INSTANCES, transformer={})
    message = "heads.instances.hidden is an option of detector=mask_rcnn, not of detector=rf_detr; write .*=null"
    with pytest.raises(UserError, match=message):
        InstancesHead(SHAPE, INSTANCES, detector="rf_detr", hidden=8)


def test_retinanet_has_torchvisions_box_losses_by_name() -> None:
    _images, targets = drawn(1)
    losses = []
    for name in (None, "l1", "giou"):
        torch.manual_seed(0)
        head = DetectionHead(SHAPE, DETECTION, "retinanet", channels=64, convs=0, box_loss=name)
        losses.append(float(head.loss(head.detector(maps(1, 64), (64, 64)), targets)["bbox_regression"].detach()))
    assert losses[0] == losses[1] > 0 and 0 < losses[2] < 2 and losses[2] != losses[0]


def test_a_frozen_batchnorm_is_that_of_evaluation() -> None:
    torch.manual_seed(0)
    batch, _ = build("resnet18", weights=None)
    frozen, _ = build("resnet18", weights=None, norm="frozen", norm_eps=0.0)
    for key, value in batch.model.state_dict().items():
        if "running" in key or ("bn" in key and value.is_floating_point()):
            value.uniform_(0.5, 1.5)
    frozen.model.load_state_dict(batch.model.state_dict())
    for module in batch.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    image = torch.rand(2, 3, 64, 64)
    expected, maps_ = batch.eval()(image).maps, frozen.train()(image).maps
    for one, other in zip(maps_, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    assert {*before} == {key for key in batch.state_dict() if not key.endswith("num_batches_tracked")}
    assert not any("bn" in key for key, _ in frozen.named_parameters())
    norms = [module for module in frozen.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert len(norms) == 20 and {norm.eps for norm in norms} == {0.0}


@pytest.mark.parametrize(
    ("name", "norm", "message"),
    [
        ("resnet18", "group", "backbone.norm=group: write batch or frozen"),
        ("convnext_tiny", "frozen", "convnext_tiny has no BatchNorm; write null for both"),
    ],
)
def test_norms_that_a_backbone_does_not_have_are_refused(name: str, norm: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, weights=None, norm=norm)
