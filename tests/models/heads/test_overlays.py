"""Boxes, masks and label maps as pixels."""

import pytest
import torch

from visiontune.models.heads.overlays import OPACITY, PALETTE, class_colours, draw_label_map, draw_objects, side_by_side

GREY = 100


def plain(height: int = 160, width: int = 200, channels: int = 3) -> torch.Tensor:
    return torch.full((channels, height, width), GREY, dtype=torch.uint8)


def over(colour: tuple[int, int, int]) -> list[float]:
    """A class colour half seen through the grey image."""
    return [OPACITY * value + (1 - OPACITY) * GREY for value in colour]


def test_a_box_is_drawn_in_the_colour_of_its_class_around_what_it_names() -> None:
    image = draw_objects(plain(), torch.tensor([[30.0, 50.0, 90.0, 120.0]]), ["dog 93%"], classes=["cat", "dog"])
    assert image.shape == (3, 160, 200) and image.dtype == torch.uint8
    for x, y in ((30, 80), (89, 80), (60, 50), (60, 119), (30, 119), (89, 119)):
        assert image[:, y, x].tolist() == list(PALETTE[1])
    for x, y in ((29, 80), (90, 80), (60, 120), (60, 85)):  # outside and inside nothing is changed
        assert image[:, y, x].tolist() == [GREY] * 3
    label = image[:, 36:49, 30:80].flatten(1)
    assert bool((label == torch.tensor(PALETTE[1])[:, None]).all(0).any())
    assert bool((label < 60).all(0).any())  # black letters on it


def test_without_a_list_the_class_name_alone_gives_the_colour() -> None:
    one, two, three = (
        draw_objects(plain(), torch.tensor([[30.0, 50.0, 90.0, 120.0]]), [name])[:, 80, 30].tolist()
        for name in ("dog", "dog 7%", "cat")
    )
    assert one == two != three


def test_masks_are_tinted_and_the_first_of_overlapping_ones_is_on_top() -> None:
    masks = torch.zeros(2, 160, 200, dtype=torch.uint8)
    masks[0, 60:100, 40:80] = 1
    masks[1, 60:100, 60:100] = 1
    boxes = torch.tensor([[40.0, 60.0, 80.0, 100.0], [60.0, 60.0, 100.0, 100.0]])
    image = draw_objects(plain(), boxes, ["a", "b"], masks, classes=["a", "b"])
    assert image[:, 90, 50].tolist() == pytest.approx(over(PALETTE[0]), abs=1)
    assert image[:, 90, 70].tolist() == pytest.approx(over(PALETTE[0]), abs=1)
    assert image[:, 90, 90].tolist() == pytest.approx(over(PALETTE[1]), abs=1)
    assert image[:, 130, 50].tolist() == [GREY] * 3


def test_small_and_grey_images_are_enlarged_with_their_boxes() -> None:
    image = draw_objects(plain(40, 50, channels=1), torch.tensor([[10.0, 10.0, 20.0, 30.0]]), ["3"])
    assert image.shape == (3, 160, 200)
    edge = image[:, 80, 40]
    assert edge.tolist() != [GREY] * 3 and torch.equal(image[:, 80, 79], edge)
    assert image[:, 80, 80].tolist() == [GREY] * 3
    assert torch.equal(draw_objects(plain(), torch.zeros(0, 4), [], torch.zeros(0, 160, 200)), plain())


def test_a_label_stays_inside_the_image() -> None:
    box = torch.tensor([[190.0, 0.0, 200.0, 60.0]])
    image = draw_objects(plain(), box, ["platelets 100%"], classes=["platelets"])
    assert image[:, 13, 150].tolist() == list(PALETTE[0])  # to the left of a box in the upper right corner


def test_label_maps_are_tinted_but_for_what_is_ignored() -> None:
    labels = torch.zeros(160, 200, dtype=torch.uint8)
    labels[:, 50:100] = 1
    labels[:, 100:150] = 2
    labels[:, 150:] = 255
    image = draw_label_map(plain(), labels, ["background", "road", "tree"])
    for x, expected in ((20, over((0, 0, 0))), (70, over(PALETTE[1])), (120, over(PALETTE[2])), (170, [GREY] * 3)):
        assert image[:, 80, x].tolist() == pytest.approx(expected, abs=1)
    legend = image[:, 160:].flatten(1)
    for colour in PALETTE[1:3]:
        assert bool((legend == torch.tensor(colour)[:, None]).all(0).any())
    assert not bool((legend == torch.tensor(PALETTE[0])[:, None]).all(0).any())
    ignored = draw_label_map(plain(), torch.full((160, 200), 255, dtype=torch.uint8), ["a"])
    assert torch.equal(ignored[:, :160], plain())


def test_a_legend_has_twenty_entries_at_most() -> None:
    labels = (torch.arange(160 * 200) % 100).view(160, 200).to(torch.uint8)
    classes = [f"class {i}" for i in range(150)]
    assert len(set(class_colours(classes[:24]))) == 24
    hundred = draw_label_map(plain(), labels, classes)
    twenty_one = draw_label_map(plain(), labels % 21, classes)
    assert hundred.shape == twenty_one.shape  # twenty and "and N more"


def test_side_by_side() -> None:
    left, right = torch.full((3, 50, 80), 10, dtype=torch.uint8), torch.full((3, 70, 60), 20, dtype=torch.uint8)
    sheet = side_by_side([left, right], ["truth", "prediction"])
    assert sheet.shape == (3, 70 + 24, 80 + 6 + 60) and sheet.dtype == torch.uint8
    assert torch.equal(sheet[:, 24:74, :80], left) and torch.equal(sheet[:, 24:, 86:], right)
    assert sheet[:, 80, 40].tolist() == [255] * 3 and sheet[:, 50, 82].tolist() == [255] * 3
    assert bool((sheet[:, :24, :80] == 255).any())  # letters
