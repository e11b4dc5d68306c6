"""The detection head against torchvision's own detectors."""

import json
import math
from typing import Any

import pytest
import torch
from drawn_objects import DETECTION, Levels, drawn, overfitted, total
from running import mostly_slow
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from visiontune.data.frames import Frame
from visiontune.data.targets import objects
from visiontune.errors import UserError
from visiontune.models.backbones import Backbone, build
from visiontune.models.heads import DetectionHead
from visiontune.models.heads.two_stage import TwoStage

DETECTORS = ["fcos", "retinanet", "faster_rcnn"]
SMALL: dict[str, dict[str, Any]] = {
    "fcos": {"channels": 64, "convs": 2},
    "retinanet": {"channels": 64, "convs": 2},
    "faster_rcnn": {"channels": 32, "hidden": 64, "samples": 32, "proposals": 50},
}
WHOLE = Frame.whole(64, 64)


def parts(detector: str, **options: Any) -> tuple[Backbone, DetectionHead]:
    """A head that finds boxes of many sizes and scores."""
    torch.manual_seed(0)
    backbone, _ = build("small_cnn", weights=None, widths=[8, 16, 32, 32], norm="group")
    head = DetectionHead(backbone.shape, DETECTION, detector, **SMALL[detector] | options)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return backbone, head


def reference(detector: str, backbone: Backbone, head: DetectionHead) -> nn.Module:
    """torchvision's detector with the same layers, everything else made by itself."""
    same: dict[str, Any] = {"image_mean": [0] * 3, "image_std": [1] * 3, "min_size": 64, "_skip_resize": True}
    levels = Levels(backbone, head)
    if detector == "faster_rcnn":
        two = head.detector
        assert isinstance(two, TwoStage)
        return FasterRCNN(
            levels,
            rpn_anchor_generator=AnchorGenerator(((16, 32), (32, 64), (64, 128), (128, 256)), ((0.5, 1, 2),) * 4),
            rpn_head=two.rpn.head,
            rpn_pre_nms_top_n_train=1000,
            rpn_post_nms_top_n_train=50,
            rpn_post_nms_top_n_test=50,
            box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 7, 2),
            box_head=two.roi.box_head,
            box_predictor=two.roi.box_predictor,
            box_batch_size_per_image=32,
            **same,
        )
    strides = [8, 16, 32, 64]
    model: Any = head.detector.model
    common = {"head": model.head, "score_thresh": 0.05, "detections_per_img": 100, **same}
    if detector == "fcos":
        return FCOS(levels, 2, anchor_generator=AnchorGenerator(tuple((s,) for s in strides), ((1.0,),) * 4), **common)
    sizes = tuple(tuple(4 * s * 2 ** (i / 3) for i in range(3)) for s in strides)
    return RetinaNet(levels, 2, anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 4), **common)


def their_targets(detector: str, targets: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    first = 1 if detector == "faster_rcnn" else 0
    return [{"boxes": t["boxes"].as_subclass(Tensor), "labels": t["labels"] + first} for t in targets]


@pytest.mark.parametrize("detector", DETECTORS)
def test_losses_and_predictions_are_torchvisions(detector: str) -> None:
    backbone, head = parts(detector)
    images, targets = drawn(3)
    targets.append(objects([], [], (64, 64)))  # an image without objects
    images = torch.cat([images, torch.rand(1, 3, 64, 64)])
    theirs = reference(detector, backbone, head).train()
    torch.manual_seed(1)
    expected = theirs([*images], their_targets(detector, targets))
    torch.manual_seed(1)
    raw = head(backbone(images))
    found = head.loss(raw, targets)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert float(found[name].detach()) == pytest.approx(float(value.detach()), rel=1e-5), name
    total(found).backward()
    ours = [p.grad.clone() for p in head.parameters() if p.grad is not None]
    head.zero_grad()
    total(expected).backward()
    for one, other in zip(ours, [p.grad for p in head.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)

    with torch.no_grad():
        predictions = theirs.eval()([*images])
    for mine, other in zip(head.decode(raw, [WHOLE] * 4), predictions, strict=True):
        seen = (other["boxes"][:, 2:] > other["boxes"][:, :2]).all(1)  # it also keeps boxes without area
        assert len(mine["boxes"]) > 0
        torch.testing.assert_close(mine["boxes"], other["boxes"][seen])
        torch.testing.assert_close(mine["scores"], other["scores"][seen])
        assert mine["labels"].tolist() == (other["labels"][seen] - int(detector == "faster_rcnn")).tolist()


@pytest.mark.parametrize("detector", DETECTORS)
def test_images_without_a_label_take_no_part(detector: str) -> None:
    backbone, head = parts(detector)
    images, targets = drawn(3)
    torch.manual_seed(1)
    two = total(head.loss(head(backbone(images[1:])), targets[1:]))
    torch.manual_seed(1)
    three = total(head.loss(head(backbone(images)), [None, *targets[1:]]))
    torch.testing.assert_close(three, two)


@pytest.mark.parametrize("detector", DETECTORS)
def test_crowds_and_boxes_without_area_are_not_learned(detector: str) -> None:
    backbone, head = parts(detector)
    images, (target,) = drawn(1)
    boxes, labels = target["boxes"].as_subclass(Tensor), target["labels"]
    more = torch.cat([boxes, torch.tensor([[4.0, 4, 60, 60], [9, 9, 9, 20]])])
    crowd = [False] * len(boxes) + [True, False]
    crowded = objects(more, [*labels.tolist(), 0, 1], (64, 64), crowd=crowd)
    raw = head(backbone(images))
    assert torch.equal(head.sample_loss(raw, [crowded]), head.sample_loss(raw, [target]))
    counted = objects(more, [*labels.tolist(), 0, 1], (64, 64))
    assert not torch.equal(head.sample_loss(raw, [counted]), head.sample_loss(raw, [target]))


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("target", [None, objects([], [], (64, 64))])
def test_a_batch_without_a_box_gives_a_finite_loss_on_the_graph_of_all_parameters(detector: str, target: Any) -> None:
    backbone, head = parts(detector)
    images, _ = drawn(2)
    loss = total(head.loss(head(backbone(images)), [target] * 2))
    loss.backward()
    assert loss.isfinite() and bool(loss == 0) == (target is None)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_loss_of_a_sample_is_its_own_and_the_same_each_time(detector: str) -> None:
    backbone, head = parts(detector)
    images, targets = drawn(3)
    with torch.no_grad():
        raw = head(backbone(images))
    torch.manual_seed(5)
    first = head.sample_loss(raw, [targets[0], None, targets[2]])
    drawn_after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn_after, torch.rand(1))  # nothing was taken from the global random numbers
    torch.manual_seed(6)
    again = head.sample_loss(raw, targets)
    assert first.isnan().tolist() == [False, True, False]
    assert torch.equal(first[[0, 2]], again[[0, 2]])
    alone = head.sample_loss(head(backbone(images[2:])), targets[2:])
    torch.testing.assert_close(alone, again[2:])
    if detector == "retinanet":  # whose loss is a mean over images
        assert float(again.mean()) == pytest.approx(float(total(head.loss(raw, targets))), rel=1e-5)


@pytest.mark.parametrize("detector", DETECTORS)
def test_predictions_do_not_depend_on_the_mode(detector: str) -> None:
    backbone, head = parts(detector)
    images, targets = drawn(2)
    results = []
    for mode in (True, False):
        head.train(mode)
        raw = head(backbone(images))
        results.append((head.decode(raw, [WHOLE] * 2), head.sample_loss(raw, targets)))
    (ours, loss), (theirs, other) = results
    assert torch.equal(loss, other)
    for one, two in zip(ours, theirs, strict=True):
        assert len(one["boxes"]) > 0
        assert all(torch.equal(one[name], two[name]) for name in ("boxes", "labels", "scores"))


def test_boxes_are_in_pixels_of_the_image() -> None:
    backbone, head = parts("fcos", max_detections=400)
    raw = head(backbone(drawn(1)[0]))
    (inside,) = head.decode(raw, [WHOLE])
    # An image of 200 x 160, shrunk to a quarter: 50 rows from row 5, 40 columns from column 12.
    (found,) = head.decode(raw, [Frame((200, 160), (5, 12, 50, 40))])
    expected = ((inside["boxes"] - torch.tensor([12.0, 5, 12, 5])) * 4).clamp(min=0)
    expected = torch.minimum(expected, torch.tensor([160.0, 200, 160, 200]))
    seen = (expected[:, 2:] > expected[:, :2]).all(1)
    assert 0 < int(seen.sum()) < len(seen)  # some lie in the border
    torch.testing.assert_close(found["boxes"], expected[seen])
    assert torch.equal(found["scores"], inside["scores"][seen])
    assert torch.equal(found["labels"], inside["labels"][seen])


@pytest.mark.parametrize("detector", mostly_slow(DETECTORS))
def test_eight_images_are_learned(detector: str) -> None:
    torch.manual_seed(0)
    backbone, _ = build("small_cnn", weights=None, widths=[16, 32, 64])
    head = DetectionHead(backbone.shape, DETECTION, detector, **SMALL[detector])
    computed, _ = overfitted(backbone, head, steps=40)
    assert float(computed["map_50"]) >= 0.95
    assert set(computed) == {*DetectionHead.directions, "ap/rectangle", "ap/disc"} - {"loss"}


@pytest.mark.parametrize(
    "name", ["resnet18", "tf_efficientnet_lite0", "convnext_atto", "vit_tiny_patch16_224", "swin_t"]
)
@pytest.mark.parametrize("detector", ["fcos", "faster_rcnn"])
def test_every_backbone_family_takes_a_training_step(name: str, detector: str) -> None:
    torch.manual_seed(0)
    backbone, _ = build(name, weights=None, image_size=64)
    head = DetectionHead(backbone.shape, DETECTION, detector, **SMALL[detector])
    model = nn.ModuleList([backbone, head]).train()
    images, targets = drawn(2)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    before = {name: p.detach().clone() for name, p in head.named_parameters()}
    loss = total(head.loss(head(backbone(images)), targets))
    loss.backward()
    assert sum(p.grad.abs().sum() for p in backbone.parameters() if p.grad is not None) > 0
    optimizer.step()
    assert loss.isfinite()
    assert any(not torch.equal(p, before[name]) for name, p in head.named_parameters())


@pytest.mark.parametrize("detector", DETECTORS)
def test_losses_and_predictions_under_bfloat16_are_float32(detector: str) -> None:
    backbone, head = parts(detector)
    images, targets = drawn(2)
    plain = head.sample_loss(head(backbone(images)), targets)
    with torch.autocast("cpu", torch.bfloat16):
        raw = head(backbone(images))
        losses = head.loss(raw, targets)
        (found, _) = head.decode(raw, [WHOLE] * 2)
        half = head.sample_loss(raw, targets)
    total(losses).backward()
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert found["boxes"].dtype == found["scores"].dtype == raw["anchors"].dtype == torch.float32
    torch.testing.assert_close(half, plain, rtol=0.05, atol=0)
    assert not torch.equal(half, plain)


def test_objects_in_words() -> None:
    _, head = parts("fcos")
    prediction = {
        "boxes": torch.tensor([[1.04, 2, 3, 4], [5, 6, 7.06, 8]]),
        "labels": torch.tensor([0, 1]),
        "scores": torch.tensor([0.25, 0.92999]),
    }
    text, score = head.describe(prediction)
    assert text == (
        '[{"label":"disc","score":0.93,"box":[5.0,6.0,7.1,8.0]},{"label":"rectangle","score":0.25,"box":[1.0,2.0,3.0,4.0]}]'
    )
    assert score == pytest.approx(0.92999)
    text, score = head.describe({name: value[:0] for name, value in prediction.items()})
    assert text == "[]" and math.isnan(score)
    target = objects([[1, 2, 3, 4]], [1], (8, 8))
    assert json.loads(head.describe_target(target)) == [{"label": "disc", "box": [1, 2, 3, 4]}]
    assert head.describe_target(None) == ""


def test_images_show_truth_beside_what_is_sure_enough() -> None:
    _, head = parts("fcos")
    image = torch.full((3, 256, 256), 90, dtype=torch.uint8)
    target = objects([[20, 40, 120, 200]], [0], (256, 256))
    sure = {"boxes": target["boxes"], "labels": torch.tensor([0]), "scores": torch.tensor([0.9])}
    both = head.draw(image, sure, target)
    alone = head.draw(image, sure)
    assert both.shape[-1] >= 2 * alone.shape[-1]
    unsure = head.draw(image, sure | {"scores": torch.tensor([0.2])})
    nothing = head.draw(image, {name: value[:0] for name, value in sure.items()})
    assert torch.equal(unsure, nothing) and not torch.equal(alone, nothing)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detector": "retinanet", "convs": 6}, "^heads.detection.convs=6: write 0 to 4 with detector=retinanet"),
        ({"detector": "retinanet", "convs": -1}, "^heads.detection.convs=-1: write 0 to 4 with detector=retinanet"),
        ({"detector": "yolo"}, "detector=yolo: write fcos, retinanet, faster_rcnn, rt_detr_v2, d_fine or rf_detr"),
        ({"channels": 32}, "channels=32 with detector=fcos: write 64, 96, 128 or another multiple of 32"),
        ({"anchor_sizes": [8, 16]}, "fcos has no anchors"),
        ({"detector": "faster_rcnn", "anchor_sizes": 32}, "^heads.detection.anchor_sizes=32: expected an entry for"),
        (
            {"samples": 64},
            "samples is an option of detector=faster_rcnn, not of detector=fcos; write heads.detection.samples=null",
        ),
        (
            {"detector": "retinanet", "anchor_sizes": [16, 32]},
            r"an entry for each of the 4 levels, of strides \[8, 16, 32, 64\].*anchor_sizes=\[32,64,128,256\]",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    backbone, _ = build("small_cnn", weights=None, widths=[8, 16, 32, 32])
    with pytest.raises(UserError, match=message):
        DetectionHead(backbone.shape, DETECTION, **options)


def test_anchor_sizes_are_those_that_are_given() -> None:
    backbone, head = parts("retinanet", anchor_sizes=[[10, 14], [20, 28], [40, 56], [80, 112]])
    anchors = head(backbone(drawn(1)[0]))["anchors"]
    sides = (anchors[:, 2:] - anchors[:, :2]).prod(1).sqrt()
    assert sides[0].item() == pytest.approx(10, abs=1) and sides[-1].item() == pytest.approx(112, abs=1)
