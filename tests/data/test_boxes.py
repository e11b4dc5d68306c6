"""Boxes are checked against their image; what is wrong is an error, cut or left out, and always said."""

import math

import numpy as np
import pytest
import torch

from visiontune.data.boxes import BoxCheck, StoredBoxes
from visiontune.errors import UserError

SIZE = (48, 64)  # height, width
GOOD = [[0.0, 0.0, 64.0, 48.0], [10.5, 3.0, 20.25, 4.0]]
ROUNDED = [-0.6, 2.0, 64.9, 48.7]
OUTSIDE = [50.0, 10.0, 70.0, 20.0]
FLAT = [5.0, 5.0, 5.0, 9.0]
TURNED = [9.0, 5.0, 5.0, 9.0]
FAR = [70.0, 5.0, 80.0, 9.0]
NO_NUMBER = [1.0, 2.0, math.nan, 4.0]
BAD = [OUTSIDE, FLAT, TURNED, FAR, NO_NUMBER]


def looked(policy: str, boxes: list[list[float]]) -> tuple[BoxCheck, np.ndarray, list[int]]:
    check = BoxCheck(policy)
    good, kept = check(boxes, SIZE, lambda i: f"labels.txt:{i + 1}")
    return check, good, kept


@pytest.mark.parametrize("policy", ["error", "clip", "drop"])
def test_good_boxes_pass_as_they_are(policy: str) -> None:
    check, good, kept = looked(policy, GOOD)
    assert good.tolist() == GOOD and good.dtype == np.float32 and kept == [0, 1] and check.notes() == []
    _, none, kept = looked(policy, [])
    assert none.shape == (0, 4) and kept == []


def test_a_pixel_too_far_is_rounding() -> None:
    check, good, _ = looked("error", [*GOOD, ROUNDED])
    assert good[2].tolist() == [0.0, 2.0, 64.0, 48.0]
    assert check.notes() == ["1 box reaches up to a pixel beyond the image: cut at its edge"]


def test_each_bad_box_is_named_with_its_place() -> None:
    check, good, kept = looked("error", [*GOOD, *BAD])
    assert kept == [0, 1] and len(good) == 2
    with pytest.raises(UserError) as error:
        check.notes()
    assert str(error.value).splitlines() == [
        "5 of 7 boxes cannot be used. Repair them, or write data.on_bad_box=drop (leave them out) or "
        "data.on_bad_box=clip (cut them at their image's edge):",
        "  labels.txt:3: box 50, 10, 70, 20 leaves its image of 64x48 pixels",
        "  labels.txt:4: box 5, 5, 5, 9 has no area",
        "  labels.txt:5: box 9, 5, 5, 9 has no area",
        "  labels.txt:6: box 70, 5, 80, 9 leaves its image of 64x48 pixels",
        "  labels.txt:7: box 1, 2, nan, 4 is not made of numbers",
    ]


def test_ten_are_named_and_all_are_counted() -> None:
    check, _, _ = looked("error", [FLAT] * 13)
    with pytest.raises(UserError, match=r"13 of 13 boxes cannot be used") as error:
        check.notes()
    assert len(str(error.value).splitlines()) == 12 and str(error.value).endswith("and 3 more")


def test_drop_leaves_them_out_and_says_so() -> None:
    check, good, kept = looked("drop", [*BAD, *GOOD])
    assert kept == [5, 6] and good.tolist() == GOOD
    assert check.notes() == [
        "5 bad boxes are left out (data.on_bad_box=drop): labels.txt:1, labels.txt:2, labels.txt:3, ..."
    ]


def test_clip_cuts_what_can_be_cut() -> None:
    check, good, kept = looked("clip", [*BAD, *GOOD])
    assert kept == [0, 5, 6] and good[0].tolist() == [50.0, 10.0, 64.0, 20.0]
    assert check.notes() == [
        "1 box that leaves its image is cut at its edge (data.on_bad_box=clip)",
        "4 bad boxes are left out (data.on_bad_box=clip): labels.txt:2, labels.txt:3, labels.txt:4, ...",
    ]


def test_a_policy_that_there_is_not() -> None:
    with pytest.raises(UserError, match=r"data\.on_bad_box=ignore: write one of error, clip, drop"):
        BoxCheck("ignore")


def test_the_target() -> None:
    stored = StoredBoxes(np.array(GOOD, dtype=np.float32), [1, 0], [False, True], SIZE)
    target = stored.load(SIZE)
    assert target["boxes"].tolist() == GOOD and target["boxes"].canvas_size == SIZE
    assert target["labels"].tolist() == [1, 0] and target["labels"].dtype == torch.int64
    assert target["crowd"].tolist() == [False, True]
    empty = StoredBoxes(np.zeros((0, 4), dtype=np.float32), [], [], SIZE).load(SIZE)
    assert empty["boxes"].shape == (0, 4) and empty["labels"].shape == (0,) and empty["crowd"].dtype == torch.bool
    with pytest.raises(UserError, match="expected an image of 64x48 pixels for its boxes, got 48x64"):
        stored.load((64, 48))
