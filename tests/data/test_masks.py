"""Folders of images and masks, in one or a pair a split."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import HEIGHT, WIDTH, scenes, write_masks
from PIL import Image

from visiontune.data import VisionData
from visiontune.data.readers.masks import read
from visiontune.errors import UserError

SIZE = (HEIGHT, WIDTH)
CLASSES = ["ground", "brick", "tile"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_masks(tmp_path / "set")


def bad(root: Path, **arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        read(root, **{"classes": CLASSES} | arguments)
    return str(error.value)


def test_pictures_and_masks(root: Path) -> None:
    source = read(root, classes=CLASSES, splits="splits")
    assert source.schema["segmentation"].kind == "segmentation"
    assert source.schema["segmentation"].classes == CLASSES and source.notes == []
    for sample, scene in zip(source.samples, scenes(), strict=True):
        assert (sample.path, sample.split) == (f"images/{scene.name}.jpg", scene.split)
        assert np.array_equal(sample.targets["segmentation"].load(SIZE).numpy(), scene.labels)
    assert {sample.split for sample in read(root, classes=CLASSES).samples} == {None}


def test_a_pair_of_folders_a_split(root: Path) -> None:
    images, masks = {}, {}
    for scene in scenes():
        images[scene.split], masks[scene.split] = f"X/{scene.split}", f"X/{scene.split}annot"
        for folder, file in ((images, f"images/{scene.name}.jpg"), (masks, f"masks/{scene.name}.png")):
            (root / folder[scene.split]).mkdir(parents=True, exist_ok=True)
            shutil.copy(root / file, root / folder[scene.split])
    source = read(root, images, masks, CLASSES)
    assert Counter(sample.split for sample in source.samples) == {"train": 8, "val": 2, "test": 2}
    assert Counter(sample.split for sample in read(root, images, "masks", CLASSES).samples)["train"] == 8
    assert bad(root, images=images, masks={"train": "X/trainannot"}).endswith("expected the same splits")
    assert "has one folder per split, data.images=images has not" in bad(root, masks=masks)
    doubled = {"train": "images", "val": "images"}
    assert bad(root, images=doubled) == "images/p00.jpg is in both train and val. A sample has one split."


@pytest.mark.parametrize(("images", "masks"), [(".", "masks"), ("images", "."), (".", ".")])
def test_one_folder_inside_the_other_or_the_same(root: Path, images: str, masks: str) -> None:
    outer = {".": root}
    for name in ("images", "masks"):
        for file in (root / name).iterdir():
            if (name == "images" and images in outer) or (name == "masks" and masks in outer):
                shutil.copy(file, root)
    for name in {"images", "masks"} - {images, masks}:
        shutil.rmtree(root / name)
    source = read(root, images, masks, CLASSES)
    assert len(source.samples) == 12 and source.notes == []
    assert source.samples[0].targets["segmentation"].labels == [0, 1]


def test_deeper_folders_pair_by_their_path(root: Path) -> None:
    for name in ("images", "masks"):
        (root / name / "a").mkdir()
        for file in [*(root / name).glob("*.*")]:
            shutil.copy(file, root / name / "a")
    source = read(root, classes=CLASSES)
    assert len(source.samples) == 24 and source.samples[0].path == "images/a/p00.jpg"


def test_pictures_without_a_mask_are_left_out_and_said(root: Path) -> None:
    (root / "masks/p03.png").unlink()
    source = read(root, classes=CLASSES)
    assert len(source.samples) == 11
    assert source.notes == ["1 image without a mask is left out: images/p03.jpg"]


def test_other_values_and_void(root: Path) -> None:
    for scene in scenes():
        drawn = np.array([10, 20, 30], dtype=np.uint8)[scene.labels]
        drawn[0] = 11
        Image.fromarray(drawn).save(root / f"masks/{scene.name}.png")
    source = read(root, classes=["tile", "brick", "ground"], values=[30, 20, 10], ignore_value=11)
    expected = 2 - scenes()[1].labels
    expected[0] = 255
    assert np.array_equal(source.samples[1].targets["segmentation"].load(SIZE).numpy(), expected)
    assert source.samples[1].targets["segmentation"].labels == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, {"classes": None}, "data.classes is not set: the masks have the values 0, 1, 2. Write data.classes="),
        (None, {"classes": ["a", "b", "a"]}, "data.classes=['a', 'b', 'a']: two classes have the same name"),
        (None, {"classes": ["a", "b"]}, "9 masks have values that belong to no class; the classes have 0, 1. Add"),
        (None, {"values": [0, 1]}, "data.values has 2 values for 3 classes: write one value per class"),
        (None, {"masks": "annot"}, "data.masks: the folder {root}/annot does not exist"),
        (None, {"images": "photos"}, "data.images: the folder {root}/photos does not exist"),
        (None, {"masks": "splits"}, "{root}/splits has no mask for any image in {root}/images. The mask of p00.jpg"),
        (None, {"images": "splits"}, "{root}/masks has masks, but no images in {root}/splits"),
        (
            lambda root: (root / "images/p04.jpg").unlink(),
            {},
            "1 masks have no image of the same name; add or remove:\n  masks/p04.png",
        ),
        (
            lambda root: (root / "images/p04.jpg").unlink(),
            {"splits": "splits"},
            "1 masks have no image of the same name; add or remove:\n  masks/p04.png",
        ),
        (
            lambda root: (root / "splits/val.txt").write_text("p08\np44\n"),
            {"splits": "splits"},
            "{root}/splits/val.txt:2: 'p44': no such image under {root}/images",
        ),
        (
            lambda root: Image.new("L", (WIDTH, HEIGHT), 9).save(root / "masks/p04.png"),
            {},
            "1 masks have values that belong to no class; the classes have 0, 1, 2. Add them to data.classes and "
            "data.values, or write data.ignore_value=9 to ignore a value:\n  masks/p04.png: 9",
        ),
        (
            lambda root: Image.new("L", (HEIGHT, WIDTH)).save(root / "masks/p04.png"),
            {},
            "1 masks have another size than their images; repair or remove them:\n"
            "  masks/p04.png: 48x64 pixels, its image images/p04.jpg has 64x48 pixels",
        ),
        (
            lambda root: (root / "masks/p04.png").write_bytes(b""),
            {},
            "1 image under {root} cannot be read; repair or remove, or write data.on_bad_image=skip:"
            "\n  masks/p04.png: the file is empty",
        ),
        (
            lambda root: (root / "images/p04.jpg").write_bytes(b"words"),
            {},
            "1 image under {root} cannot be read; repair or remove, or write data.on_bad_image=skip:"
            "\n  images/p04.jpg: not an image",
        ),
    ],
)
def test_what_can_be_wrong(
    root: Path, change: Callable[[Path], Any] | None, arguments: dict[str, Any], message: str
) -> None:
    if change:
        change(root)
    assert bad(root, **arguments).startswith(message.format(root=root))


def test_from_the_config(root: Path, make: Callable[..., VisionData]) -> None:
    given = ["data=masks", f"data.root={root}", "data.classes=[ground,brick,tile]", "data.image_size=32"]
    data = make(*given, "data.splits=splits")
    assert data.counts()["train"]["segmentation"] == {"ground": 8, "brick": 7, "tile": 6}
    batch = next(iter(data.val_dataloader()))
    assert tuple(batch["targets"]["segmentation"][0].shape) == (32, 32)
    for split in ("train", "val"):
        for name in ("images", "masks"):
            shutil.copytree(root / name, root / split / name)
    (root / "val" / "images").rename(root / "val" / "photos")
    named = make(
        *given, "data.images={train: train/images, val: val/photos}", "data.masks={train: train/masks, val: val/masks}"
    )
    assert [len(named.samples(split)) for split in ("train", "val", "test")] == [12, 12, 0]
