"""Polygons and run lengths become the pixels that pycocotools draws."""

from typing import Any

import numpy as np
import pytest
import torch

from visiontune.data.boxes import BoxCheck, StoredBoxes
from visiontune.data.polygons import Objects, StoredInstances, draw, parse

SIZE = (12, 16)
TRIANGLE = [1.5, 1.2, 8.3, 2.1, 5.0, 7.9]
# pycocotools 2.0.10: decode(merge(frPyObjects([TRIANGLE], 12, 16))), its 21 pixels as one string a row.
DRAWN = ["", "  ##", "  ######", "   #####", "   ####", "    ##", "    ##", "", "", "", "", ""]


def reference() -> np.ndarray:
    return np.array([[mark == "#" for mark in row.ljust(16)] for row in DRAWN], dtype=np.uint8)


def test_a_polygon_is_drawn_as_pycocotools_does() -> None:
    segment = parse([TRIANGLE], SIZE)
    assert segment is not None and np.array_equal(draw(segment, SIZE), reference())


def test_polygons_of_one_object_are_united() -> None:
    corner = [0, 0, 4, 0, 4, 3, 0, 3]
    segment = parse([TRIANGLE, corner], SIZE)
    assert segment is not None
    drawn = draw(segment, SIZE)
    square = np.zeros(SIZE, dtype=np.uint8)
    square[:3, :4] = 1
    assert np.array_equal(drawn, reference() | square) and drawn.sum() == 21 + 12 - 4


@pytest.mark.parametrize("counts", [b"i02:2O1N00N2Oo2", "i02:2O1N00N2Oo2", "list"])
def test_run_lengths_compressed_and_plain(counts: Any) -> None:
    if counts == "list":  # column by column, beginning with zeros
        flat = np.concatenate([[0], reference().T.ravel(), [2]])
        ends = np.flatnonzero(np.diff(flat))
        counts = np.diff(np.concatenate([[0], ends])).tolist()
    segment = parse({"size": list(SIZE), "counts": counts}, SIZE)
    assert segment is not None and np.array_equal(draw(segment, SIZE), reference())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1, 1, 5, 5]], "its polygon has 4 numbers; three points or more are x, y, x, y, x, y, ..."),
        ([[1, 1, 5, 5, 3, 9, 2]], "its polygon has 7 numbers"),
        ([[1, 1, 5, float("nan"), 3, 9]], "its polygon is not made of numbers"),
        ([["a", 1, 5, 5, 3, 9]], "its polygon is not made of numbers"),
        ("polygon", "its segmentation is neither a list of polygons nor run lengths"),
        ({"size": [16, 12], "counts": [192]}, r"its run lengths are of size \[16, 12\], the image's is \[12, 16\]"),
        ({"size": [12, 16], "counts": [100]}, "its run lengths are broken"),
        ({"size": [12, 16], "counts": "i02:2O"}, "its run lengths are broken"),
        ({"size": [12, 16], "counts": [-5, 197]}, "its run lengths are broken"),
        ({"size": [12, 16]}, "its run lengths are broken"),
    ],
)
def test_what_cannot_be_drawn(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(given, SIZE)


def test_no_segment() -> None:
    assert parse(None, SIZE) is None and parse([], SIZE) is None


def test_the_target() -> None:
    objects = Objects()
    objects.add([1.5, 1.2, 8.3, 7.9], 2, segment=parse([TRIANGLE], SIZE))
    objects.add([0, 0, 0, 5], 1, segment=parse([[0, 0, 0, 5, 0, 3]], SIZE))
    objects.add([0, 0, 16, 12], 0, crowd=True, segment=parse({"size": [12, 16], "counts": [0, 192]}, SIZE))
    targets = objects.stored(SIZE, BoxCheck("drop"), str)
    target = targets["instances"].load(SIZE)
    assert target["masks"].shape == (2, 12, 16) and target["masks"].dtype == torch.uint8
    assert np.array_equal(target["masks"][0].numpy(), reference()) and int(target["masks"][1].sum()) == 192
    assert target["labels"].tolist() == [2, 0] == list(targets["detection"].labels)
    assert target["crowd"].tolist() == [False, True]
    assert torch.allclose(target["boxes"], targets["detection"].load(SIZE)["boxes"])
    nothing = Objects().stored(SIZE, BoxCheck("error"), str)["instances"].load(SIZE)
    assert nothing["masks"].shape == (0, 12, 16) and nothing["boxes"].shape == (0, 4)


def test_an_object_without_a_segment_leaves_detection_alone() -> None:
    objects = Objects()
    objects.add([0, 0, 5, 5], 0, segment=parse([TRIANGLE], SIZE))
    objects.add([5, 5, 9, 9], 0)
    targets = objects.stored(SIZE, BoxCheck("error"), str)
    assert isinstance(targets["detection"], StoredBoxes) and "instances" not in targets
    objects.segments[1] = objects.segments[0]
    assert isinstance(objects.stored(SIZE, BoxCheck("error"), str)["instances"], StoredInstances)
