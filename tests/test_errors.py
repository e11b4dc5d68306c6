"""Helpers that format messages."""

from visiontune.errors import first_line, listed, some


def test_first_line_of_an_error() -> None:
    assert first_line(ValueError("\nwrong size\nsecond line")) == "wrong size"
    assert first_line(NotImplementedError()) == "NotImplementedError"


def test_long_lists_are_cut() -> None:
    names = [f"image{i}" for i in range(12)]
    assert listed(names[:2]) == "\n  image0\n  image1"
    assert listed(names).endswith("\n  image9\n  and 2 more")
    assert some(names[:3]) == "image0, image1, image2" and some(names[:4]) == "image0, image1, image2, ..."
