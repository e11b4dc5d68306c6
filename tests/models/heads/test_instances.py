"""The instances head against torchvision's Mask R-CNN."""

from typing import Any

import pytest
import torch
from drawn_objects import INSTANCES, Levels, drawn, overfitted, total
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from visiontune.data.frames import Frame
from visiontune.data.targets import objects
from visiontune.models.backbones import Backbone, build
from visiontune.models.heads import InstancesHead
from visiontune.models.heads.two_stage import TwoStage

SMALL: dict[str, Any] = {"channels": 32, "hidden": 64, "samples": 32, "proposals": 50}
WHOLE = Frame.whole(64, 64)


def parts(noise: float = 0.05) -> tuple[Backbone, InstancesHead]:
    """A head that finds boxes and masks of many kinds."""
    torch.manual_seed(0)
    backbone, _ = build("small_cnn", weights=None, widths=[8, 16, 32], norm="group")
    head = InstancesHead(backbone.shape, INSTANCES, **SMALL)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += noise * torch.randn_like(parameter)
    return backbone, head


def reference(backbone: Backbone, head: InstancesHead) -> MaskRCNN:
    """torchvision's Mask R-CNN with the same layers, everything else made by itself."""
    two = head.detector
    assert isinstance(two, TwoStage)
    return MaskRCNN(
        Levels(backbone, head),
        rpn_anchor_generator=AnchorGenerator(((16, 32), (32, 64), (64, 128)), ((0.5, 1, 2),) * 3),
        rpn_head=two.rpn.head,
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=50,
        rpn_post_nms_top_n_test=50,
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], 7, 2),
        box_head=two.roi.box_head,
        box_predictor=two.roi.box_predictor,
        box_batch_size_per_image=32,
        mask_roi_pool=MultiScaleRoIAlign(["0", "1"], 14, 2),
        mask_head=two.roi.mask_head,
        mask_predictor=two.roi.mask_predictor,
        image_mean=[0] * 3,
        image_std=[1] * 3,
        min_size=64,
        _skip_resize=True,
    )


def test_losses_and_predictions_are_torchvisions() -> None:
    backbone, head = parts()
    images, targets = drawn(3)
    theirs = reference(backbone, head).train()
    plain = [
        {
            "boxes": target["boxes"].as_subclass(Tensor),
            "labels": target["labels"] + 1,
            "masks": target["masks"].as_subclass(Tensor),
        }
        for target in targets
    ]
    torch.manual_seed(1)
    expected = theirs([*images], plain)
    torch.manual_seed(1)
    raw = head(backbone(images))
    found = head.loss(raw, targets)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert float(found[name].detach()) == pytest.approx(float(value.detach()), rel=1e-5), name

    with torch.no_grad():
        predictions = theirs.eval()([*images])
    for mine, other in zip(head.decode(raw, [WHOLE] * 3), predictions, strict=True):
        assert len(mine["boxes"]) > 10
        torch.testing.assert_close(mine["boxes"], other["boxes"])
        assert torch.equal(mine["masks"], other["masks"][:, 0] > 0.5)
        assert mine["masks"].any() and not mine["masks"].all()


@pytest.mark.parametrize(
    "target", [None, objects([], [], (64, 64), masks=torch.zeros(0, 64, 64)), "crowd"], ids=["None", "empty", "crowd"]
)
def test_a_batch_without_a_mask_gives_a_finite_loss_on_the_graph_of_all_parameters(target: Any) -> None:
    backbone, head = parts()
    images, _ = drawn(2)
    if target == "crowd":
        target = objects([[4, 4, 40, 40]], [1], (64, 64), masks=torch.ones(1, 64, 64), crowd=[True])
    loss = total(head.loss(head(backbone(images)), [target] * 2))
    loss.backward()
    assert loss.isfinite() and bool(loss == 0) == (target is None)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_predictions_and_sample_losses_do_not_depend_on_the_mode_or_on_chance() -> None:
    backbone, head = parts()
    images, targets = drawn(2)
    results = []
    for mode in (True, False):
        head.train(mode)
        raw = head(backbone(images))
        results.append((head.decode(raw, [WHOLE] * 2), head.sample_loss(raw, [targets[0], None])))
    (ours, loss), (theirs, other) = results
    assert torch.equal(loss[0], other[0]) and loss[1].isnan()
    for one, two in zip(ours, theirs, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in ("boxes", "labels", "scores", "masks"))


@pytest.mark.parametrize(
    ("frame", "rows", "columns", "middle"),
    [
        (WHOLE, (16, 48), (8, 40), 24),
        # Shrunk to a quarter, under a border of 8 rows: rows 16..48 of the input are rows 32..160 of the image.
        (Frame((192, 256), (8, 0, 48, 64)), (32, 160), (32, 160), 96),
        # The middle of an image twice as wide: 32 columns are out of sight on either side.
        (Frame((64, 128), (0, -32, 64, 128)), (16, 48), (40, 72), 56),
        # A border of 24 columns on the left: the left half of the object is beyond the image.
        (Frame((64, 40), (0, 24, 64, 40)), (16, 48), (0, 16), 0),
    ],
)
def test_masks_are_in_pixels_of_the_image(
    frame: Frame, rows: tuple[int, int], columns: tuple[int, int], middle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, head = parts()
    masks = torch.ones(1, 1, 28, 28)
    masks[..., 14:, 14:] = 0  # the lower right quarter of the box is no part of the object
    found = {"boxes": torch.tensor([[8.0, 16, 40, 48]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    monkeypatch.setattr(head.detector, "detect", lambda raw: [found | {"masks": masks}])
    (prediction,) = head.decode({}, [frame])
    expected = torch.zeros(frame.size, dtype=torch.bool)
    expected[slice(*rows), slice(*columns)] = True
    expected[sum(rows) // 2 : rows[1], middle : columns[1]] = False
    (mask,) = prediction["masks"]
    assert mask.shape == frame.size and mask.dtype == torch.bool
    assert prediction["boxes"].tolist() == [[columns[0], rows[0], columns[1], rows[1]]]
    # torchvision pastes masks a pixel too wide.
    assert float((mask & expected).sum() / (mask | expected).sum()) > 0.85


@pytest.mark.slow
def test_eight_images_are_learned() -> None:
    torch.manual_seed(0)
    backbone, _ = build("small_cnn", weights=None, widths=[16, 32, 64])
    head = InstancesHead(backbone.shape, INSTANCES, **SMALL)
    computed, predictions = overfitted(backbone, head, steps=50)
    assert float(computed["map_50"]) >= 0.95 and float(computed["box_map_50"]) >= 0.95
    classes = [f"{kind}ap/{name}" for kind in ("", "box_") for name in INSTANCES.classes]
    assert set(computed) == {*InstancesHead.directions, *classes} - {"loss"}
    best = predictions[0]["masks"][0].float().mean()
    assert 0.02 < float(best) < 0.3  # of the image


def test_masks_are_drawn() -> None:
    _, head = parts(noise=0)
    image = torch.full((3, 256, 256), 90, dtype=torch.uint8)
    box = torch.tensor([[20.0, 40, 120, 200]])
    masks = torch.zeros(1, 256, 256, dtype=torch.bool)
    masks[:, 60:180, 40:100] = True
    prediction = {"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([0.9]), "masks": masks}
    tinted = head.draw(image, prediction)
    plain = head.draw(image, prediction | {"masks": masks & False})
    assert (tinted != plain).any(0).float().mean() == pytest.approx(120 * 60 / 256**2, rel=0.05)
