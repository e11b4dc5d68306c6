"""Pascal VOC's format: boxes, masks and lists, and everything that can be wrong with them."""

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import CLASSES, HEIGHT, WIDTH, save_palette, scenes, write_voc
from PIL import Image

from visiontune.data import VisionData
from visiontune.data.readers.voc import read
from visiontune.errors import UserError

SIZE = (HEIGHT, WIDTH)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "set")


def page(root: Path, name: str, old: str, new: str) -> None:
    """Change the first `old` of an XML file."""
    file = root / "Annotations" / f"{name}.xml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def bad(root: Path, **arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        read(root, **arguments)
    return str(error.value)


def test_boxes_masks_and_lists(root: Path) -> None:
    source = read(root)
    assert {task: (info.kind, info.classes) for task, info in source.schema.items()} == {
        "detection": ("detection", CLASSES),
        "segmentation": ("segmentation", ["background", *CLASSES]),
    }
    assert source.notes == [
        "values in masks: 0 background, 1 brick, 2 tile",
        "12 masks have pixels of the value 255, which are ignored (data.ignore_value): SegmentationClass/p00.png, "
        "SegmentationClass/p01.png, SegmentationClass/p02.png, ...",
    ]
    for sample, scene in zip(source.samples, scenes(), strict=True):
        assert (sample.path, sample.split) == (f"JPEGImages/{scene.name}.jpg", scene.split)
        target = sample.targets["detection"].load(SIZE)
        assert target["boxes"].tolist() == [list(map(float, box)) for _, box in scene.objects]
        assert target["labels"].tolist() == [CLASSES.index(name) for name, _ in scene.objects]
        drawn = scene.labels
        drawn[:, 0] = 255
        assert np.array_equal(sample.targets["segmentation"].load(SIZE).numpy(), drawn)


def test_folders_that_are_not_there_give_no_task(root: Path) -> None:
    shutil.rmtree(root / "SegmentationClass")
    assert list(read(root).schema) == ["detection"]
    shutil.rmtree(root / "ImageSets")
    source = read(root)
    assert {sample.split for sample in source.samples} == {None}
    assert source.notes == [f"there are no split lists in {root}/ImageSets/Main: the data is split by data.split_ratio"]
    shutil.rmtree(root / "Annotations")
    assert bad(root).startswith(f"{root}/JPEGImages has no annotations: write data.annotations=DIR")


def test_masks_alone_need_the_classes(root: Path) -> None:
    shutil.rmtree(root / "Annotations")
    assert bad(root) == "data.classes is not set, and no XML file has class names: write e.g. data.classes=[cat,dog]"
    for classes in (["brick", "tile"], ["background", "brick", "tile"]):
        source = read(root, classes=classes)
        assert source.schema["segmentation"].classes == ["background", "brick", "tile"]
        assert list(source.schema) == ["segmentation"]


def test_all_files_in_one_folder(root: Path) -> None:
    flat = root / "flat"
    flat.mkdir()
    for name in ("JPEGImages", "Annotations", "SegmentationClass"):
        for file in (root / name).iterdir():
            shutil.copy(file, flat)
    source = read(root, images="flat", annotations="flat", masks="flat")
    assert [sample.path for sample in source.samples] == [f"flat/{scene.name}.jpg" for scene in scenes()]
    assert sum(len(sample.targets["segmentation"].labels) for sample in source.samples) == 12 + 18


def test_trainval_is_train_where_there_is_no_other(root: Path) -> None:
    lists = root / "ImageSets" / "Main"
    names = [scene.name for scene in scenes() if scene.split != "test"]
    (lists / "trainval.txt").write_text("".join(f"{name}  {1 if i % 2 else -1}\n" for i, name in enumerate(names)))
    assert Counter(sample.split for sample in read(root).samples) == {"train": 8, "val": 2, "test": 2}
    for name in ("train.txt", "val.txt"):
        (lists / name).unlink()
    assert Counter(sample.split for sample in read(root).samples) == {"train": 10, "test": 2}


def test_pictures_without_annotation_are_left_out_and_said(root: Path) -> None:
    Image.new("RGB", (8, 8)).save(root / "JPEGImages" / "extra.jpg")
    (root / "Annotations" / "p00.xml").unlink()
    source = read(root)
    assert list(source.samples[0].targets) == ["segmentation"] and len(source.samples) == 12
    assert "1 image without annotation is left out: JPEGImages/extra.jpg" in source.notes


@pytest.mark.parametrize(
    ("difficult", "count", "crowd"), [("ignore", 1, [True]), ("keep", 1, [False]), ("drop", 0, [])]
)
def test_difficult_objects(root: Path, difficult: str, count: int, crowd: list[bool]) -> None:
    page(root, "p00", "<difficult>0", "<difficult>1")
    source = read(root, masks=None, difficult=difficult)
    target = source.samples[0].targets["detection"].load(SIZE)
    assert len(target["labels"]) == count and target["crowd"].tolist() == crowd
    assert (
        source.notes
        == {
            "ignore": ["1 difficult objects are ignored by metrics (data.difficult=ignore)"],
            "keep": [],
            "drop": ["1 difficult objects are left out (data.difficult=drop)"],
        }[difficult]
    )


def test_the_pictures_own_size_counts(root: Path) -> None:
    page(root, "p00", "<width>64</width><height>48</height>", "<width>0</width><height>0</height>")
    page(root, "p01", "<width>64", "<width>640")
    page(root, "p02", "<size><width>64</width><height>48</height><depth>3</depth></size>", "")
    source = read(root, masks=None)
    assert source.notes == [
        "1 image has another size than annotated; the size of the file is used: JPEGImages/p01.jpg is 64x48, "
        "annotated as 640x48"
    ]
    assert source.samples[0].targets["detection"].load(SIZE)["boxes"].tolist() == [[6, 13, 21, 27]]


def test_numbers_of_the_challenge_in_a_part_of_it(root: Path) -> None:
    """cat and dog are 8 and 12 in its masks; in a set of one's own they are 1 and 2."""
    for file in (root / "Annotations").iterdir():
        file.write_text(file.read_text().replace("brick", "cat").replace("tile", "dog"))
    own = read(root)
    assert own.notes[0] == "values in masks: 0 background, 1 cat, 2 dog"
    for scene in scenes():
        save_palette(np.array([0, 8, 12], dtype=np.uint8)[scene.labels], root / f"SegmentationClass/{scene.name}.png")
    part = read(root)
    assert part.notes == ["values in masks: 0 background, 8 cat, 12 dog"]
    assert part.schema["segmentation"].classes == ["background", "cat", "dog"]
    assert np.array_equal(part.samples[0].targets["segmentation"].load(SIZE).numpy(), scenes()[0].labels)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "<xmax>21<",
            "<xmax>6<",
            "1 of 18 boxes cannot be used. Repair them, or write data.on_bad_box=drop (leave them out) or "
            "data.on_bad_box=clip (cut them at their image's edge):\n"
            "  Annotations/p00.xml:4: box 6, 13, 6, 27 has no area",
        ),
        ("<xmax>21<", "<xmax>90<", "1 of 18 boxes cannot be used."),
        ("<xmax>21<", "<xmax>nan<", "1 of 18 boxes cannot be used."),
        ("<xmax>21<", "<xmax>wide<", "Annotations/p00.xml:4: an object needs a name, and bndbox with xmin, ymin, xmax"),
        ("<name>brick<", "<name><", "Annotations/p00.xml:4: an object needs a name, and bndbox with xmin, ymin, xmax"),
        ("</object>", "", "Annotations/p00.xml:9: broken XML (mismatched tag)"),
        ("<annotation>", "nothing", "Annotations/p00.xml:1: broken XML (syntax error)"),
    ],
)
def test_pages_that_cannot_be(root: Path, old: str, new: str, message: str) -> None:
    page(root, "p00", old, new)
    assert bad(root).startswith(message)


def test_bad_boxes_are_dropped_if_asked(root: Path) -> None:
    page(root, "p00", "<xmax>21<", "<xmax>6<")
    source = read(root, masks=None, on_bad_box="drop")
    assert source.notes == ["1 bad box is left out (data.on_bad_box=drop): Annotations/p00.xml:4"]
    assert source.samples[0].targets["detection"].labels == []


def test_a_class_that_is_not_asked_for(root: Path) -> None:
    assert (
        bad(root, classes=["tile", "roof"]) == "Annotations/p00.xml:4: 'brick' is not in data.classes=['tile', 'roof']"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: (root / "JPEGImages" / "p00.jpg").unlink(),
            r"1 annotations have no image of the same name in {root}/JPEGImages:\n  Annotations/p00.xml",
        ),
        (
            lambda root: (root / "ImageSets/Main/val.txt").write_text("p08\np77\n"),
            "{root}/ImageSets/Main/val.txt:2: 'p77': no such image under {root}/JPEGImages",
        ),
        (
            lambda root: save_palette(np.full(SIZE, 3, dtype=np.uint8), root / "SegmentationClass" / "p01.png"),
            "1 masks have values that belong to no class; the classes have 0, 1, 2.",
        ),
        (
            lambda root: save_palette(np.zeros((9, 9), dtype=np.uint8), root / "SegmentationClass" / "p01.png"),
            r"1 masks have another size than their images; repair or remove them:\n  SegmentationClass/p01.png: 9x9",
        ),
        (
            lambda root: (root / "SegmentationClass" / "p01.png").write_bytes(b"no image"),
            r"1 image under {root} cannot be read; repair or remove, or write data.on_bad_image=skip:"
            r"\n  SegmentationClass/p01.png: not an image",
        ),
        (
            lambda root: shutil.copy(root / "JPEGImages" / "p00.jpg", root / "JPEGImages" / "p00.jpeg"),
            "{root}/JPEGImages/p00.jpeg and p00.jpg: two files of the same name.",
        ),
    ],
)
def test_files_that_do_not_fit(root: Path, change: Callable[[Path], Any], message: str) -> None:
    change(root)
    assert bad(root).startswith(message.replace(r"\n", "\n").format(root=root))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": "photos"}, "data.images: the folder {root}/photos does not exist"),
        ({"annotations": "xml"}, "data.annotations: the folder {root}/xml does not exist"),
        ({"masks": "png"}, "data.masks: the folder {root}/png does not exist"),
        ({"splits": "lists"}, "data.splits: the folder {root}/lists does not exist"),
        ({"difficult": "maybe"}, "data.difficult=maybe: write one of ignore, keep, drop"),
        ({"root": None}, "data.root is not set"),
    ],
)
def test_keys_that_do_not_fit(root: Path, arguments: dict[str, Any], message: str) -> None:
    assert bad(**{"root": root} | arguments).startswith(message.format(root=root))


def test_from_the_config(root: Path, make: Callable[..., VisionData]) -> None:
    data = make("data=voc", f"data.root={root}", "data.image_size=32", "data.batch_size=2")
    counts = data.counts()["train"]
    assert counts["detection"] == {"brick": 7, "tile": 6}
    assert counts["segmentation"] == {"background": 8, "brick": 7, "tile": 6}
    batch = next(iter(data.val_dataloader()))
    assert [tuple(mask.shape) for mask in batch["targets"]["segmentation"]] == [(32, 32), (32, 32)]
    assert [re.sub(r"\d+ masks have | of .*|: .*", "", note) for note in data.notes] == ["values in masks", "pixels"]
