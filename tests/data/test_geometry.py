"""How an image fits the network's input, with everything that is known of it, and the way back."""

import pytest
import torch
from drawn_targets import ALL_KINDS, BOXES, extent, iou, rectangles, shown
from torchvision import tv_tensors

from visiontune.data.geometry import FITS, ResizeAndCut, ShortSide, eval_frame, eval_transform
from visiontune.data.targets import IGNORE, LabelMap
from visiontune.errors import UserError


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        ("squash", [[13, 11, 38, 32], [45, 21, 58, 53], [6, 43, 29, 59]]),
        ("letterbox", [[13, 19, 38, 32], [45, 26, 58, 45], [6, 39, 29, 48]]),
        # 100x60 -> 122x73, whose middle 64x64 begins at 29, 4: the third one is cut at the left
        ("crop", [[0, 8, 44, 33], [56, 20, 64, 57], [0, 45, 26, 63]]),
    ],
)
def test_fitting_moves_boxes_and_masks_with_the_picture(resize: str, expected: list[list[int]]) -> None:
    image, targets = eval_transform((64, 64), resize, ALL_KINDS)(*rectangles())
    assert image.shape == (3, 64, 64) and image.dtype == torch.float32
    boxes, masks = targets["detection"]["boxes"], targets["instances"]["masks"]
    for i, box in enumerate(expected):
        assert boxes[i].tolist() == pytest.approx(box, abs=1)
        assert extent(shown(image, i)) == pytest.approx(box, abs=1)
        assert extent(masks[i]) == pytest.approx(box, abs=1)
        assert torch.equal(targets["segmentation"] == i + 1, masks[i].bool())
    assert torch.equal(targets["clean"], image) and targets["classification"] == 4 and targets["nothing"] is None
    assert targets["detection"]["labels"].tolist() == [0, 1, 2]
    assert targets["detection"]["crowd"].tolist() == [False, True, False]


@pytest.mark.parametrize("resize", FITS)
@pytest.mark.parametrize("picture", [(60, 100), (61, 99), (90, 55), (33, 257)])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (65, 49)])
def test_a_frame_leads_back_to_the_picture(resize: str, picture: tuple[int, int], size: tuple[int, int]) -> None:
    """A box in the middle of the image goes through the transform, and back to where it was."""
    height, width = picture
    box = torch.tensor([[width * 0.47, height * 0.4, width * 0.53, height * 0.6]])
    boxes = tv_tensors.BoundingBoxes(box, format="XYXY", canvas_size=picture)
    pixels = torch.zeros(1, *picture, dtype=torch.uint8)
    left, top, right, bottom = box[0].round().int().tolist()
    pixels[:, top:bottom, left:right] = 200
    image, moved = eval_transform(size, resize)(tv_tensors.Image(pixels), {"boxes": boxes})
    frame = eval_frame(resize, picture, size)
    assert frame.size == picture
    assert frame.boxes(moved["boxes"].as_subclass(torch.Tensor)).tolist()[0] == pytest.approx(box[0].tolist(), abs=1e-3)
    # Pixels as well: what the transform shows, resized to the image, is the image.
    back = frame.pixels(image.as_subclass(torch.Tensor))
    pixel = max(height / frame.inside[2], width / frame.inside[3])
    assert back.shape == (1, *picture)
    assert extent(back[0] > 0.4) == pytest.approx([left, top, right, bottom], abs=1 + 0.5 * pixel)


@pytest.mark.parametrize("resize", FITS)
@pytest.mark.parametrize("shape", [(7, 300), (300, 7), (1, 1), (64, 48)])
def test_any_shape_fits_a_rectangle(resize: str, shape: tuple[int, int]) -> None:
    image = tv_tensors.Image(torch.zeros(1, *shape, dtype=torch.uint8))
    assert eval_transform((48, 64), resize)(image).shape == (1, 48, 64)
    none = LabelMap(torch.zeros(shape, dtype=torch.uint8))
    assert eval_transform((48, 64), resize)(image, {"labels": none})[1]["labels"].shape == (48, 64)


def test_masks_lie_where_the_picture_lies() -> None:
    """Shrinking to a quarter takes the middle of the pixels that become one, not their upper left."""
    where = torch.zeros(1, 64, 64, dtype=torch.uint8)
    where[:, 17:47, 21:43] = 1
    image, mask = ShortSide((16, 16))(tv_tensors.Image(where * 255), tv_tensors.Mask(where))
    assert type(mask) is tv_tensors.Mask and mask.shape == (1, 16, 16) and mask.dtype == torch.uint8
    ys, xs = torch.where(mask[0] > 0)
    weights = image[0].float() / image.float().sum()
    assert float(xs.float().mean()) == pytest.approx(float((weights.sum(0) * torch.arange(16)).sum()), abs=0.13)
    assert float(ys.float().mean()) == pytest.approx(float((weights.sum(1) * torch.arange(16)).sum()), abs=0.13)
    assert ShortSide((16, 16))(tv_tensors.Image(where), tv_tensors.Mask(where[:0]))[1].shape == (0, 16, 16)


def test_padding_is_grey_for_pictures_and_no_truth_for_targets() -> None:
    image, targets = eval_transform((100, 100), "letterbox", ALL_KINDS, fill=114)(*rectangles())
    for edge in (image[:, :20], image[:, 80:], targets["clean"][:, :20]):
        assert edge.unique().tolist() == [pytest.approx(114 / 255)]
    assert torch.equal(image[:, 20:80], rectangles()[0] / 255)
    labels = targets["segmentation"]
    assert isinstance(labels, LabelMap) and labels[:20].unique().tolist() == [IGNORE]
    assert labels[20:80].unique().tolist() == [0, 1, 2, 3]
    assert int(targets["instances"]["masks"][:, :20].sum()) == 0
    assert bool(targets["depth"][:, :20].isnan().all()) and bool((targets["depth"][:, 20:80] == labels[20:80]).all())


@pytest.mark.parametrize("resize", FITS)
def test_random_resize_changes_the_size_of_things_and_keeps_their_shape(resize: str) -> None:
    """Whether it is cut or padded, all that is known of the image moves along."""
    step = ResizeAndCut((64, 64), (0.4, 1.6), resize, fill=9)
    height, width = eval_transform((64, 64), resize)(tv_tensors.Image(torch.zeros(3, 60, 100))).shape[-2:]
    assert (height, width) == (64, 64)
    factors, padded, cut = [], 0, 0
    for seed in range(30):
        torch.manual_seed(seed)
        image, targets = step(*rectangles())
        assert image.shape == (3, 64, 64) and targets["segmentation"].shape == (64, 64)
        assert torch.equal(targets["clean"], image)
        for i, box in enumerate(targets["detection"]["boxes"].as_subclass(torch.Tensor).tolist()):
            inside = shown(image, i)
            if int(inside.sum()) > 60:
                assert iou(inside, targets["segmentation"] == i + 1) > 0.75
                assert extent(inside) == pytest.approx([min(64, max(0, edge)) for edge in box], abs=1.01)
        empty = targets["segmentation"] == IGNORE
        assert bool((image[:, empty] == 9).all())
        padded, cut = padded + bool(empty.any()), cut + bool((targets["detection"]["boxes"] == 64).any())
        whole = eval_frame(resize, (60, 100), (64, 64)).inside
        sides = targets["instances"]["boxes"][0].tolist()
        if min(sides) > 0 and max(sides) < 64:
            assert (sides[2] - sides[0]) / (sides[3] - sides[1]) == pytest.approx(
                40 / 20 * (whole[3] / 100) / (whole[2] / 60), rel=0.05
            )
            factors.append((sides[2] - sides[0]) / (BOXES[0, 2] - BOXES[0, 0]) / (whole[3] / 100))
    assert padded >= 5 and cut >= 3
    assert min(factors) < 0.6 and max(factors) > 0.9 and 0.39 <= min(factors) <= max(factors) <= 1.61


def test_an_unknown_way_to_fit() -> None:
    with pytest.raises(UserError, match=r"data\.resize=stretch: choose one of squash, crop, letterbox"):
        eval_transform((8, 8), "stretch")
