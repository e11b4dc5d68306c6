"""Masks of every kind of file become label maps; a value that stands for nothing is an error."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from miniatures import save_palette
from PIL import Image

from visiontune.data import mask_files as module
from visiontune.data.label_maps import Coding, StoredLabelMap, label_maps
from visiontune.data.targets import LabelMap
from visiontune.errors import UserError

LABELS = np.array([[0, 1, 2, 2], [0, 1, 1, 255], [2, 0, 0, 0]], dtype=np.uint8)
CLASSES = ["soil", "leaf", "stem"]
COLOURS = [[10, 20, 30], [10, 20, 31], [200, 0, 30]]


def write(path: Path, kind: str) -> Coding:
    """The same labels as another kind of file, and how to read it."""
    known = np.where(LABELS == 255, 3, LABELS)
    if kind == "palette":
        save_palette(LABELS, path)
        return Coding(CLASSES)
    if kind == "grey":
        Image.fromarray(LABELS).save(path)
        return Coding(CLASSES, ignore=255)
    if kind == "other values":
        Image.fromarray(np.array([7, 200, 0, 33], dtype=np.uint8)[known]).save(path)
        return Coding(CLASSES, [7, 200, 0], ignore=33)
    if kind == "grey as RGB":
        Image.fromarray(LABELS).convert("RGB").save(path)
        return Coding(CLASSES)
    if kind == "grey and alpha":
        Image.fromarray(LABELS).convert("LA").save(path)
        return Coding(CLASSES)
    if kind == "16 bits":
        Image.fromarray(np.array([0, 1000, 65535, 4], dtype=np.uint16)[known]).save(path)
        return Coding(CLASSES, [0, 1000, 65535], ignore=4)
    assert kind == "colours"
    Image.fromarray(np.array([*COLOURS, [255, 255, 255]], dtype=np.uint8)[known]).save(path)
    return Coding(CLASSES, COLOURS, ignore=[255, 255, 255])


def read(path: Path, coding: Coding, size: tuple[int, int] = (3, 4)) -> StoredLabelMap:
    return label_maps(path.parent, {"p.jpg": path.name}, {"p.jpg": size}, coding)["p.jpg"]


@pytest.mark.parametrize(
    "kind", ["palette", "grey", "other values", "grey as RGB", "grey and alpha", "16 bits", "colours"]
)
def test_kinds_of_files(tmp_path: Path, kind: str) -> None:
    stored = read(tmp_path / "m.png", write(tmp_path / "m.png", kind))
    target = stored.load((3, 4))
    assert isinstance(target, LabelMap) and target.dtype == torch.uint8
    assert np.array_equal(target.numpy(), LABELS) and stored.labels == [0, 1, 2]


def test_colours_of_a_palette(tmp_path: Path) -> None:
    image = Image.fromarray(np.where(LABELS == 255, 0, LABELS).astype(np.uint8))
    image.putpalette([part for colour in COLOURS for part in colour])
    image.save(tmp_path / "m.png")
    assert np.array_equal(
        read(tmp_path / "m.png", Coding(CLASSES, COLOURS)).load((3, 4)).numpy(), np.where(LABELS == 255, 0, LABELS)
    )


def test_one_bit_is_zero_or_one(tmp_path: Path) -> None:
    Image.fromarray(LABELS == 1).save(tmp_path / "m.png")
    assert np.array_equal(read(tmp_path / "m.png", Coding(["a", "b"])).load((3, 4)).numpy(), LABELS == 1)


def test_only_the_classes_that_occur(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 4), 2, dtype=np.uint8)).save(tmp_path / "m.png")
    assert read(tmp_path / "m.png", Coding(CLASSES)).labels == [2]


def test_values_that_stand_for_nothing(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1], [9, 8]], dtype=np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(UserError) as error:
        read(tmp_path / "m.png", Coding(["a", "b"]), (2, 2))
    assert str(error.value) == (
        "1 masks have values that belong to no class; the classes have 0, 1. Add them to data.classes and data.values, "
        "or write data.ignore_value=8 to ignore a value:\n  m.png: 8, 9"
    )
    Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], dtype=np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(UserError, match=r"c\.png: \[9, 9, 9\]$"):
        read(tmp_path / "c.png", Coding(["a", "b"], [[1, 2, 3], [4, 5, 6]]), (1, 2))


def test_another_size_than_the_picture(tmp_path: Path) -> None:
    coding = write(tmp_path / "m.png", "grey")
    message = r"1 masks have another size than their images; .*\n  m\.png: 4x3 pixels, its image p\.jpg has 3x4"
    with pytest.raises(UserError, match=message):
        read(tmp_path / "m.png", coding, (4, 3))
    stored = read(tmp_path / "m.png", coding)
    with pytest.raises(UserError, match=r"m\.png: the mask has 4x3 pixels, its image 3x4 pixels"):
        stored.load((4, 3))


def test_black_and_white_masks_ask_what_white_is(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"have only the values 0, 255.*data\.values=\[0, 255\].*ignore_value=255"):
        read(tmp_path / "m.png", Coding(["soil", "leaf"]), (2, 2))
    whole = read(tmp_path / "m.png", Coding(["soil", "leaf"], [0, 255]), (2, 2))
    assert whole.load((2, 2)).tolist() == [[0, 1], [1, 0]] and whole.labels == [0, 1]
    half = read(tmp_path / "m.png", Coding(["soil", "leaf"], ignore=255), (2, 2))
    assert half.load((2, 2)).tolist() == [[0, 255], [255, 0]] and half.labels == [0]


def test_a_photo_is_no_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m\.png: it has colors: write data\.values=\[\[RED, GREEN, BLUE\], \.\.\.\]"):
        read(tmp_path / "m.png", Coding(CLASSES), (8, 8))
    Image.fromarray(rng.random((8, 8)).astype(np.float32)).save(tmp_path / "m.tif")
    with pytest.raises(UserError, match=r"m\.tif: its values are not integers from 0 to 65535"):
        read(tmp_path / "m.tif", Coding(CLASSES), (8, 8))


def test_a_mask_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coding = write(tmp_path / "m.png", "grey")
    read(tmp_path / "m.png", coding)
    monkeypatch.setattr(module, "pixel_codes", lambda *_: pytest.fail("looked at again"))
    assert read(tmp_path / "m.png", coding).labels == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": [0, 1]}, "data.values has 2 values for 3 classes"),
        ({"values": [0, 1, 1]}, "two classes have the same value"),
        ({"values": [0, 1, 70000]}, "70000 is not a pixel value: write a number from 0 to 65535"),
        ({"values": [0, [1, 2, 3], [4, 5, 6]]}, r"0 is not a color: write \[RED, GREEN, BLUE\]"),
        ({"values": [[0, 0, 0], [1, 2], [4, 5, 6]]}, r"\[1, 2\] is not a color"),
        ({"ignore": 2}, "data.ignore_value=2 is the value of class 'stem'"),
        ({"classes": [str(i) for i in range(256)]}, "data.classes has 256 names: a mask can have at most 255 classes"),
    ],
)
def test_codings_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Coding(**{"classes": CLASSES} | arguments)
