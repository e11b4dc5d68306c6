"""Labels that are given twice, for another image, or not for training: each has one note."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inputs import write_coco, write_image, write_masks, write_yolo
from PIL import Image

from visiontune.data.label_notes import label_notes
from visiontune.data.readers import coco, instance_masks, masks, voc, yolo
from visiontune.data.schema import Source, TaskInfo
from visiontune.errors import UserError

BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
OBJECT = f"<object><name>a</name>{BOX}</object>"
REPEATED = "the box and class of another object of the same image. All are used; remove them if they are mistakes"


def load_voc(root: Path, content: str, **arguments: Any) -> Source:
    for name in ("one", "two"):
        write_image(root / f"JPEGImages/{name}.jpg")
    (root / "Annotations").mkdir()
    (root / "Annotations/one.xml").write_text(f"<annotation>{content}</annotation>")
    return voc.read(root, **{"splits": None} | arguments)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        (r"C:\photos\two.png", True),
        ("TWO", True),
        ("one.png", False),
        ("three.jpg", False),
        ("", False),
    ],
)
def test_voc_file_of_another_image(tmp_path: Path, name: str, note: bool) -> None:
    source = load_voc(tmp_path, f"<filename>{name}</filename>{OBJECT}")
    assert [sample.path for sample in source.samples] == ["JPEGImages/one.jpg"]
    shown = name.rpartition("\\")[2]
    expected = (
        "1 XML file names another image in <filename>; the image with the stem of the file is used: "
        f"Annotations/one.xml ({shown})"
    )
    unlabelled = "1 image without annotation is left out: JPEGImages/two.jpg"
    assert source.notes == [unlabelled, *[expected] * note]


def test_deleted_and_nested_voc_objects(tmp_path: Path) -> None:
    deleted = OBJECT.replace("</name>", "</name><deleted>1</deleted>")
    kept = OBJECT.replace("</name>", f"</name><deleted>0</deleted><part>{OBJECT}</part>")
    source = load_voc(tmp_path, deleted + kept)
    assert source.samples[0].targets["detection"].labels == [0]
    assert source.notes[1:] == [
        "1 XML file has deleted objects, which are left out (<deleted>1</deleted>): Annotations/one.xml (1)",
        "1 XML file has objects inside objects, which are left out: Annotations/one.xml (1)",
    ]


def test_voc_object_with_two_boxes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one\.xml:1: an object has 2 bndbox: write an object for each"):
        load_voc(tmp_path, OBJECT.replace(BOX, BOX + BOX))


def test_ignored_pixels_and_pages_of_masks(tmp_path: Path) -> None:
    write_masks(tmp_path, (0, 1, 255), count=2)
    pages = [Image.fromarray(np.full((48, 64), value, np.uint8)) for value in (1, 0)]
    (tmp_path / "masks/0.png").unlink()
    pages[0].save(tmp_path / "masks/0.tif", save_all=True, append_images=pages[1:])
    note = "1 mask has several pages or frames, of which the first is used: masks/0.tif"
    source = masks.read(tmp_path, classes=["a", "b"])
    assert [sample.targets["segmentation"].labels for sample in source.samples] == [[1], [0, 1]]
    assert source.notes == [
        "1 mask has pixels of the value 255, which are ignored (data.ignore_value): masks/1.png",
        note,
    ]
    assert masks.read(tmp_path, classes=["a", "b"], ignore_value=255).notes == [note]
    assert instance_masks.read(tmp_path, classes=["a"]).notes == [note]


def test_repeated_boxes(tmp_path: Path) -> None:
    source = load_voc(tmp_path / "voc", OBJECT + OBJECT + OBJECT.replace(">20<", ">21<"))
    assert source.samples[0].targets["detection"].labels == [0, 0, 0]
    assert source.notes[1:] == [f"1 object has {REPEATED}: Annotations/one.xml:1"]
    source = yolo.read(write_yolo(tmp_path / "yolo", "names: [a, b]", "0 .5 .5 .4 .4\n1 .5 .5 .4 .4\n" * 2, count=1))
    assert [sample.targets["detection"].labels for sample in source.samples] == [[0, 1, 0, 1]] * 2
    places = "labels/train/train0.txt:3, labels/train/train0.txt:4, labels/val/val0.txt:3, ..."
    assert source.notes == [f"4 objects have {REPEATED}: {places}"]


def test_coco_objects_with_marks(tmp_path: Path) -> None:
    write_coco(tmp_path, {"ignore": 1, "score": 0.5}, count=2)
    document = json.loads((tmp_path / "a.json").read_text())
    document["annotations"] += [document["annotations"][0] | {"id": 9, "ignore": 0, "score": None}]
    (tmp_path / "a.json").write_text(json.dumps(document))
    source = coco.read(tmp_path, "a.json", tasks=["detection"])
    assert [sample.targets["detection"].crowd for sample in source.samples] == [[False, False], [False]]
    places = "a.json annotation 0 (0.jpg), a.json annotation 1 (1.jpg)"
    assert source.notes == [
        f"1 object has {REPEATED}: a.json annotation 9 (0.jpg)",
        "2 objects have ignore=1, and are used like others; write iscrowd=1 if metrics should ignore them: " + places,
        f"2 objects have a score, as predictions have, and are used as true labels: {places}",
    ]


def test_yolo_files_of_two_images(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "names: [a]", count=1)
    write_image(root / "images/train/train0.png")
    assert yolo.read(root).notes == [
        "1 label file is used for several images: labels/train/train0.txt of images/train/train0.jpg and "
        "images/train/train0.png"
    ]


def test_lists_that_name_an_image_twice(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", "names: [a]", count=2)
    lines = ["images/train/train0.jpg", "./images/train/train0.jpg", "images/train/train1.jpg"]
    (root / "train.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("train: train.txt\nval: [images/val, images/val]\nnames: [a]\n")
    source = yolo.read(root)
    assert [sample.split for sample in source.samples] == ["train", "train", "val", "val"]
    assert source.notes == [
        "3 images are listed again in the same split, and used once: images/train/train0.jpg, images/val/val0.jpg, "
        "images/val/val1.jpg"
    ]
    write_masks(tmp_path / "masks", count=3)
    (tmp_path / "masks/lists").mkdir()
    (tmp_path / "masks/lists/train.txt").write_text("0\n1\n2\nimages/1.jpg\n")
    source = masks.read(tmp_path / "masks", classes=["a", "b"], splits="lists")
    assert [sample.split for sample in source.samples] == ["train"] * 3
    (note,) = source.notes
    assert note.startswith("1 line of the lists names an image again, which is used once: ")
    assert note.endswith("train.txt:4: images/1.jpg")


@pytest.mark.parametrize(
    ("classes", "joined"),
    [
        (["cat", "cat|dog", "dog", "dog, cat"], "2 classes are made of names of others: 'cat|dog', 'dog, cat'. If"),
        (["tench, Tinca tinca", "shark", "a,b"], None),
    ],
)
def test_cells_of_several_classes(classes: list[str], joined: str | None) -> None:
    notes = label_notes([], {"classification": TaskInfo("classification", classes)})
    assert [note[: len(joined or "")] for note in notes] == ([joined] if joined else [])
