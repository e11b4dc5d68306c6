"""How an image fits the network's input, and how training varies it."""

import math
from dataclasses import replace

import pytest
import torch
from drawn_targets import ALL_KINDS, extent, iou, rectangles, shown
from torchvision import tv_tensors
from torchvision.transforms import v2

from visiontune.data.augmentation import AUTO, Augment, train_transform
from visiontune.data.geometry import FITS, eval_transform
from visiontune.data.target_kinds import KINDS
from visiontune.data.targets import IGNORE
from visiontune.errors import UserError


@pytest.mark.parametrize("resize", FITS)
@pytest.mark.parametrize("shape", [(7, 300), (300, 7), (1, 1), (64, 48)])
def test_any_shape_fits_a_rectangle(resize: str, shape: tuple[int, int]) -> None:
    image = tv_tensors.Image(torch.zeros(1, *shape, dtype=torch.uint8))
    strong = Augment(crop=(0.1, 1.0), flip=True, rotate=30, scale=(0.7, 1.3), blur=1.0, erase=1.0, color=0.5)
    for augment in (strong, Augment(resize_range=(0.1, 3.0))):
        assert train_transform(augment, (48, 64), resize, channels=1)(image).shape == (1, 48, 64)


@pytest.mark.parametrize("resize", FITS)
def test_nothing_asked_is_evaluation(resize: str) -> None:
    varied, targets = train_transform(Augment(fill=7), (40, 40), resize, kinds=ALL_KINDS)(*rectangles())
    same, truth = eval_transform((40, 40), resize, ALL_KINDS, fill=7)(*rectangles())
    assert varied.dtype == torch.uint8 and same.dtype == torch.float32
    assert float((varied / 255 - same).abs().max()) <= 1 / 255 + 1e-6  # as torchvision rounds
    for task in ("detection", "instances"):
        assert len(truth[task]["boxes"]) == 3
        assert all(torch.equal(value, truth[task][key]) for key, value in targets[task].items())
    assert torch.equal(targets["segmentation"], truth["segmentation"])


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
    same = train_transform(Augment(crop=(0.25, 0.25), ratio=None), (32, 32), resize).transforms[0](image)
    assert same.shape[-1] / same.shape[-2] == pytest.approx(shown, rel=0.03)


@pytest.mark.parametrize("auto", sorted(AUTO))
def test_published_policies_run(auto: str) -> None:
    image = tv_tensors.Image(torch.randint(0, 255, (3, 20, 20), dtype=torch.uint8))
    assert train_transform(Augment(auto=auto), (16, 16))(image).shape == (3, 16, 16)
    with pytest.raises(UserError, match=r"needs data\.channels=3"):
        train_transform(Augment(auto=auto), (16, 16), channels=1)


@pytest.mark.parametrize("auto", sorted(AUTO))
@pytest.mark.parametrize("kind", ["detection", "instances", "segmentation", "dense"])
def test_published_policies_are_refused_where_targets_would_stay_behind(auto: str, kind: str) -> None:
    with pytest.raises(UserError, match=f"augment.auto={auto} .* targets of {kind}; write augment.auto=null"):
        train_transform(Augment(auto=auto), (16, 16), kinds=[KINDS[kind], KINDS["classification"]])


MOVES = {
    "flip": Augment(flip=True, vertical_flip=True),
    "crop": Augment(crop=(0.3, 0.9)),
    "rotate": Augment(rotate=40),
    "scale": Augment(scale=(0.6, 1.6)),
    "resize": Augment(resize_range=(0.5, 1.8)),
    "all": Augment(flip=True, crop=(0.5, 1.0), rotate=20, scale=(0.8, 1.2), vertical_flip=True, color=0.1),
}


@pytest.mark.parametrize("resize", FITS)
@pytest.mark.parametrize("move", MOVES)
def test_everything_known_of_a_picture_moves_with_it(move: str, resize: str) -> None:
    transform = train_transform(replace(MOVES[move], fill=5, min_visible=0.0), (96, 96), resize, kinds=ALL_KINDS)
    turned = move in ("rotate", "all")
    kept = dropped = 0
    for seed in range(12):
        torch.manual_seed(seed)
        image, targets = transform(*rectangles())
        assert torch.equal(targets["clean"], image)
        labels, found, boxes = targets["segmentation"], targets["instances"], targets["detection"]
        known = labels != IGNORE
        assert torch.equal(targets["depth"][0][known], labels[known].float())
        assert torch.equal(targets["depth"][0].isnan(), ~known)
        for i in range(3):
            seen, where = shown(image, i), (found["labels"] == i).nonzero().flatten().tolist()
            if not where:  # gone: not a pixel of it is left
                assert int(seen.sum()) <= 96
                dropped += 1
                continue
            kept += 1
            (row,) = where
            mask = found["masks"][row].bool()
            assert torch.equal(mask, labels == i + 1)
            assert found["boxes"][row].tolist() == extent(mask)
            if int(mask.sum()) < 96:  # a sliver: its colours are mixed
                continue
            assert iou(mask, seen) > 0.8
            (box,) = boxes["boxes"][boxes["labels"] == i].tolist()
            assert boxes["crowd"][boxes["labels"] == i].tolist() == [i == 1]
            if turned:  # loose, but around it
                assert all(low <= edge + 1 for low, edge in zip(box[:2], extent(mask)[:2], strict=True))
                assert all(high >= edge - 1 for high, edge in zip(box[2:], extent(mask)[2:], strict=True))
            else:
                assert box == pytest.approx(extent(mask), abs=1.01)
        assert len(boxes["boxes"]) == len(boxes["labels"]) == len(boxes["crowd"])
        assert all(0 <= edge <= 96 for edge in boxes["boxes"].flatten().tolist())
    assert kept >= 15 and (dropped >= 1 or move != "crop")


def test_corners_left_empty_are_grey_and_no_truth() -> None:
    torch.manual_seed(0)
    image, targets = train_transform(Augment(scale=(0.5, 0.5), fill=114), (96, 96), kinds=ALL_KINDS)(*rectangles())
    edge = torch.ones(96, 96, dtype=torch.bool)
    edge[23:73, 23:73] = False
    assert image[:, edge].unique().tolist() == [114] and targets["segmentation"][edge].unique().tolist() == [IGNORE]
    assert bool(targets["depth"][0][edge].isnan().all()) and int(targets["instances"]["masks"][:, edge].sum()) == 0
    assert targets["segmentation"][25:71, 25:71].unique().tolist() == [0, 1, 2, 3]


def test_an_object_is_dropped_when_less_than_asked_of_it_is_left() -> None:
    """The same draws: what a higher share leaves is what has that share."""
    numbers = []
    for share in (0.0, 0.3, 0.6, 1.0):
        count = 0
        transform = train_transform(Augment(crop=(0.2, 0.5), min_visible=share), (64, 64), kinds=[KINDS["detection"]])
        for seed in range(20):
            torch.manual_seed(seed)
            count += len(transform(*rectangles())[1]["detection"]["labels"])
        numbers.append(count)
    assert numbers[0] > numbers[1] > numbers[2] > numbers[3] > 0


def test_a_rectangle_is_wiped_out_of_the_picture_and_not_of_the_truth() -> None:
    alone = train_transform(Augment(erase=1.0, blur=1.0), (60, 100), kinds=ALL_KINDS)
    image, targets = alone(*rectangles())
    original, truth = rectangles()
    assert not torch.equal(image, original) and torch.equal(targets["clean"], truth["clean"])
    assert torch.equal(targets["segmentation"], truth["segmentation"])
    assert torch.equal(targets["detection"]["boxes"], truth["detection"]["boxes"])


def test_colours_of_picture_and_restored_picture_change_together() -> None:
    transform = train_transform(Augment(color=0.5, hue=0.2, grey=0.5), (60, 100), kinds=[KINDS["dense"]])
    original, truth = rectangles()
    for seed in range(5):
        torch.manual_seed(seed)
        image, targets = transform(original, truth)
        assert not torch.equal(image, original) and torch.equal(targets["clean"], image)
        assert bool((targets["depth"] == truth["depth"]).all())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"crop": [0.5, 1.0], "resize_range": [0.5, 1.5]}, "both crop the image; write augment.crop=null"),
        ({"rotation": 3}, "augment.rotation: unknown key; known are crop"),
        ({"crop": [0.8, 1.2]}, "up to 1.0"),
        ({"resize_range": [0, 2]}, r"such as augment\.resize_range=\[0\.8, 1\.0\]"),
        ({"scale": [1.1, 0.9]}, r"such as augment\.scale=\[0\.8, 1\.0\]"),
    ],
)
def test_values_that_make_no_sense(config: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Augment.from_config(config)
