"""How a picture fits the network's input, and how training varies it."""

import math

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from visiontune.data.augmentation import AUTO, Augment, eval_transform, train_transform
from visiontune.errors import UserError


def scene(height: int = 40, width: int = 80) -> tuple[tv_tensors.Image, dict]:
    """A white box on black, its bounding box, and its mask."""
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    pixels[:, 10:30, 20:60] = 255
    box = tv_tensors.BoundingBoxes([[20, 10, 60, 30]], format="XYXY", canvas_size=(height, width), dtype=torch.float32)
    return tv_tensors.Image(pixels), {
        "boxes": box,
        "mask": tv_tensors.Mask((pixels[0] > 0).to(torch.uint8)),
        "class": 4,
    }


def box_of(image: torch.Tensor) -> list[int]:
    """XYXY of what is brighter than grey."""
    ys, xs = torch.where(image[0] > 127)
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        ("squash", [16, 16, 48, 48]),
        ("letterbox", [16, 24, 48, 40]),
        # 80x40 -> 146x73, whose middle 64x64 shows the box's 73x37, cut at both sides.
        ("crop", [0, 14, 64, 50]),
    ],
)
def test_fitting_moves_boxes_and_masks_with_the_picture(resize: str, expected: list[int]) -> None:
    image, targets = eval_transform((64, 64), resize)(*scene())
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8 and targets["mask"].shape == (64, 64)
    assert box_of(image) == pytest.approx(expected, abs=1)
    assert targets["boxes"][0].tolist() == pytest.approx(expected, abs=1)
    assert box_of(targets["mask"][None] * 255) == pytest.approx(expected, abs=1)
    assert targets["class"] == 4


@pytest.mark.parametrize("resize", ["squash", "letterbox", "crop"])
@pytest.mark.parametrize("shape", [(7, 300), (300, 7), (1, 1), (64, 48)])
def test_any_shape_fits_a_rectangle(resize: str, shape: tuple[int, int]) -> None:
    image = tv_tensors.Image(torch.zeros(1, *shape, dtype=torch.uint8))
    strong = Augment(crop=(0.1, 1.0), flip=True, rotate=30, scale=(0.7, 1.3), blur=1.0, erase=1.0, color=0.5)
    for transform in (eval_transform((48, 64), resize), train_transform(strong, (48, 64), resize, channels=1)):
        assert transform(image).shape == (1, 48, 64)


def test_letterbox_pads_with_black() -> None:
    image = eval_transform((64, 64), "letterbox")(tv_tensors.Image(torch.full((3, 40, 80), 9, dtype=torch.uint8)))
    assert image[0, :, 0].tolist() == [0] * 16 + [9] * 32 + [0] * 16


def test_nothing_asked_is_evaluation() -> None:
    image, targets = scene()
    varied, _ = train_transform(Augment(), (32, 32))(image, targets)
    assert torch.equal(varied, eval_transform((32, 32))(image, targets)[0])


def test_flip_is_flip_and_can_be_off() -> None:
    image = tv_tensors.Image(torch.arange(16, dtype=torch.uint8).view(1, 4, 4))
    seen = {tuple(train_transform(Augment(flip=True), (4, 4))(image).flatten().tolist()) for _ in range(40)}
    assert seen == {tuple(image.flatten().tolist()), tuple(image.flip(-1).flatten().tolist())}
    both = {tuple(train_transform(Augment(vertical_flip=True), (4, 4))(image).flatten().tolist()) for _ in range(40)}
    assert both == {tuple(image.flatten().tolist()), tuple(image.flip(-2).flatten().tolist())}


@pytest.mark.parametrize(("resize", "shown"), [("squash", 2.0), ("crop", 1.0)])
def test_a_crop_has_the_share_and_shape_asked(resize: str, shown: float) -> None:
    image = tv_tensors.Image(torch.zeros(3, 100, 200, dtype=torch.uint8))
    transform = train_transform(Augment(crop=(0.2, 0.4), ratio=(0.9, 1.1)), (32, 32), resize)
    assert isinstance(transform, v2.Compose)
    crop = transform.transforms[0]
    for _ in range(50):
        cut = crop(image)
        area, aspect = cut.shape[-1] * cut.shape[-2], cut.shape[-1] / cut.shape[-2]
        assert 0.19 <= area / 20_000 <= 0.41
        assert abs(math.log(aspect / shown)) < math.log(1.1) + 0.03


@pytest.mark.parametrize("auto", sorted(AUTO))
def test_published_policies_run(auto: str) -> None:
    image = tv_tensors.Image(torch.randint(0, 255, (3, 20, 20), dtype=torch.uint8))
    assert train_transform(Augment(auto=auto), (16, 16))(image).shape == (3, 16, 16)
    with pytest.raises(UserError, match=r"needs data\.channels=3"):
        train_transform(Augment(auto=auto), (16, 16), channels=1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rotation": 3}, "augment.rotation is no augmentation; choose from crop"),
        ({"auto": "magic"}, "choose one of null, trivial, rand, augmix"),
        ({"crop": [0.8, 1.2]}, "at most 1.0"),
        ({"scale": [1.1, 0.9]}, r"such as augment\.scale=\[0\.8, 1\.0\]"),
        ({"erase": 20}, "a chance, from 0 to 1"),
        ({"hue": 0.7}, "from 0 to 0.5"),
    ],
)
def test_values_that_make_no_sense(config: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Augment.from_config(config)
