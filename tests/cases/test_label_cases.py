"""Labels that are probably not what people mean: names of splits, similar classes, copies, fractions, deep colors."""

import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from inputs import write_coco, write_folders, write_image, write_masks, write_yolo
from PIL import Image
from running import Outcome

from visiontune.data.image_notes import ImageNotes
from visiontune.data.images import ImageDecoder, describe_image
from visiontune.data.label_notes import label_notes
from visiontune.data.readers import coco, csv_table, image_folder, masks, yolo
from visiontune.data.schema import Sample, TaskInfo
from visiontune.data.split_checks import note_split_folders
from visiontune.data.verify import verify
from visiontune.errors import UserError

Plan = Callable[..., Outcome]


def refused(root: Path, **arguments: object) -> str:
    with pytest.raises(UserError) as error:
        image_folder.read(root, **arguments)  # type: ignore[arg-type]
    return str(error.value)


def write_splits(root: Path, splits: Sequence[str]) -> Path:
    for split in splits:
        write_folders(root / split, count=2)
    return root


@pytest.mark.parametrize("names", [("Training", "Testing"), ("train", "testing"), ("TRAIN", "valid", "test")])
def test_other_names_of_splits(tmp_path: Path, names: Sequence[str]) -> None:
    source = image_folder.read(write_splits(tmp_path, names))
    assert source.schema["classification"].classes == ["cat", "dog"]
    assert len({sample.split for sample in source.samples}) == len(names)


@pytest.mark.parametrize(
    "names", [("training_set", "test_set"), ("seg_train/seg_train", "seg_test/seg_test"), ("train", "eval")]
)
def test_splits_are_no_classes(tmp_path: Path, names: Sequence[str]) -> None:
    message = refused(write_splits(tmp_path, names))
    assert "have names of splits. Name them train, val and test" in message
    assert names[0].split("/")[0] in message


def test_images_without_class_folder_in_splits(tmp_path: Path) -> None:
    write_folders(tmp_path, ["train", "test1"], count=2)
    assert "the folders test1, train are read as classes" in refused(tmp_path)


def test_classes_may_have_words_of_splits(tmp_path: Path) -> None:
    write_folders(tmp_path, ["train_station", "test_tube", "car"], count=2)
    assert image_folder.read(tmp_path).schema["classification"].classes == ["car", "test_tube", "train_station"]


@pytest.mark.parametrize("names", [("car", "train"), ("control", "test"), ("invalid", "valid"), ("dev", "val")])
def test_a_class_may_have_the_name_of_a_split(tmp_path: Path, names: Sequence[str]) -> None:
    write_folders(tmp_path, names, count=1)
    source = image_folder.read(tmp_path)
    assert source.schema["classification"].classes == [*names] and len(source.samples) == 2
    assert {sample.split for sample in source.samples} == {None}


def test_two_folders_of_a_split(tmp_path: Path) -> None:
    source = image_folder.read(write_splits(tmp_path, ("train", "val", "valid")))
    assert source.notes == ["the folders val and valid are both val"]


def test_folders_inside_a_class(tmp_path: Path) -> None:
    write_image(write_folders(tmp_path, count=2) / "cat/kitten/1.png")
    (note,) = image_folder.read(tmp_path).notes
    assert note.startswith("1 image is in folders inside class folders; ") and note.endswith(": cat/kitten/1.png")


def test_a_folder_around_the_classes(tmp_path: Path) -> None:
    write_folders(tmp_path / "archive/data", count=2)
    assert "Are cat, dog the classes or splits? Write data.images=archive/data" in refused(tmp_path)
    assert len(image_folder.read(tmp_path, images="archive/data").samples) == 4


def test_images_in_no_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "cat.0.jpg")
    assert "note: 1 image without class folder" in refused(tmp_path)


@pytest.mark.parametrize(
    ("classes", "similar"),
    [
        (["Cat", "cat", "dog"], "'Cat' and 'cat'"),
        (["1", "1.0", "01", "2"], "'1' and '1.0' and '01'"),
        (["hot  dog", "hot\xa0dog", "hot dog\u200b"], "'hot  dog' and 'hot\\xa0dog' and 'hot dog\\u200b'"),
        (["cat ", "cat", "dog"], "'cat ' and 'cat'"),
        (["cat", "dog", "1", "2"], None),
    ],
)
def test_similar_names(classes: list[str], similar: str | None) -> None:
    notes = label_notes([], {"detection": TaskInfo("detection", classes)})
    assert [note.rpartition(": ")[2] for note in notes] == ([similar] if similar else [])


def test_copies_of_another_class(tmp_path: Path, plan: Plan) -> None:
    write_folders(tmp_path / "set")
    shutil.copy(tmp_path / "set/cat/00.png", tmp_path / "set/dog/99.png")
    shutil.copy(tmp_path / "set/cat/01.png", tmp_path / "set/cat/98.png")
    outcome = plan("data=image_folder", f"data.root={tmp_path / 'set'}")
    note = "note: classification: 1 image has a copy of another class: cat/00.png and dog/99.png"
    assert outcome.code == 0 and outcome.out.count(note) == 1


def test_folders_of_splits_that_are_not_used() -> None:
    paths = ["images/train/1.jpg", "images/val/2.jpg", "images/Test/3.jpg"]
    (note,) = note_split_folders([Sample(path, {}) for path in paths])
    assert note.startswith("folders test and train and val in the paths of images are not used as splits")
    assert note_split_folders([Sample("train/1.jpg", {}), Sample("test.jpg", {})]) == []


@pytest.mark.parametrize("bbox", [[0.1, 0.1, 0.3, 0.3], [0, 0, 1, 1]])
def test_boxes_in_fractions(tmp_path: Path, bbox: list[float]) -> None:
    write_coco(tmp_path, {"bbox": bbox})
    message = r"all boxes are within the first pixel .* a\.json annotation 0 \(0\.jpg\): if they are fractions"
    with pytest.raises(UserError, match=message):
        coco.read(tmp_path, "a.json")


def test_polygons_without_area(tmp_path: Path) -> None:
    write_coco(tmp_path, {"segmentation": [[5, 5, 25, 5, 5, 5]]})
    with pytest.raises(UserError, match="its polygons have no area"):
        coco.read(tmp_path, "a.json", tasks=["instances"])
    assert coco.read(tmp_path, "a.json", tasks=["detection"]).samples[0].targets["detection"].labels == [0]


def test_deep_colors(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + np.full(3, 4095, ">u2").tobytes()
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "1.png").write_bytes(png)
    assert describe_image(png, ImageDecoder()) == {"deep_color": True}
    assert ImageDecoder()(tmp_path / "1.png").flatten().tolist() == [15, 15, 15]
    assert describe_image(write_image(tmp_path / "2.png"), ImageDecoder()) == {}


def test_damaged_examples(tmp_path: Path) -> None:
    damaged = write_image(write_folders(tmp_path, count=2) / "cat/00.png")
    damaged.write_bytes(damaged.read_bytes()[:60])
    images = ImageNotes()
    samples = image_folder.read(tmp_path).samples
    assert len(verify(tmp_path, samples, "header", images=images)) == 4
    (note,) = images.notes()
    assert note.startswith("1 image of the examples that are decoded cannot be read") and "cat/00.png (" in note
    assert note.endswith("Write data.verify=full to find all such images")


def write_table(root: Path, header: str, *cells: str) -> None:
    rows = [f"images/{write_image(root / f'images/{i}.png').name},{cell}" for i, cell in enumerate(cells)]
    (root / "t.csv").write_text("\n".join([header, *rows]))


def test_columns_in_upper_case(tmp_path: Path) -> None:
    write_table(tmp_path, "path,kind,Split,GROUP", "a,Training,1", "b,train,1", "a,Validation,2", "b,testing,3")
    source = csv_table.read(tmp_path, "t.csv", label="kind")
    assert [(sample.split, sample.group) for sample in source.samples] == [
        ("train", None),
        ("train", None),
        ("val", None),
        ("test", None),
    ]
    assert source.notes == [
        "the column Split of t.csv is used as split",
        "the column GROUP of t.csv is not used; rename it to group if it has the groups",
    ]


def test_columns_with_another_meaning(tmp_path: Path) -> None:
    write_table(tmp_path, "path,Group,Split", "a,1", "b,2", "a,3")
    source = csv_table.read(tmp_path, "t.csv", label="Group")
    assert {(sample.split, sample.group) for sample in source.samples} == {(None, None)}
    assert source.notes == ["the column Split of t.csv is not used; rename it to split if it has the splits"]


def test_images_without_a_row(tmp_path: Path) -> None:
    write_table(tmp_path, "path,kind", "a", "b")
    write_image(tmp_path / "images/other.png")
    (note,) = csv_table.read(tmp_path, "t.csv", label="kind").notes
    assert note == "1 image that is not in t.csv is left out: images/other.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv is empty"),
        ("# made by a tool\npath,kind\n1.png,a\n", "t.csv has no column 'path'; it has # made by a tool"),
        (None, "t.csv cannot be read (Is a directory). Write data.table=FILE"),
    ],
)
def test_tables_without_a_header(tmp_path: Path, text: str | None, message: str) -> None:
    if text is None:
        (tmp_path / "t.csv").mkdir()
    else:
        (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError) as error:
        csv_table.read(tmp_path, "t.csv", label="kind")
    assert message in str(error.value)


def test_all_images_in_another_folder(tmp_path: Path) -> None:
    write_coco(tmp_path / "set")
    (tmp_path / "photos").mkdir()
    for image in (tmp_path / "set").glob("*.jpg"):
        image.rename(tmp_path / "photos" / image.name)
    with pytest.raises(
        UserError, match=r"is data\.images correct\? There is photos/0\.jpg, which data\.images=photos "
    ):
        coco.read(tmp_path, "set/a.json")
    assert len(coco.read(tmp_path, "set/a.json", images="photos").samples) == 10
    write_table(tmp_path / "table", "path,kind", "a", "b")
    (tmp_path / "table/images").rename(tmp_path / "table/all")
    with pytest.raises(UserError, match=r"There is all/0\.png, which data\.images=all would find\.\n  t\.csv:2"):
        csv_table.read(tmp_path / "table", "t.csv", label="kind")


def test_yolo_labels_in_pixels(tmp_path: Path) -> None:
    write_yolo(tmp_path, "names: [cat]\n", "0 32 24 20 20\n")
    with pytest.raises(UserError, match=r"train0\.txt:1: the numbers of all labels are larger than 1"):
        yolo.read(tmp_path)


def test_masks_in_jpeg(tmp_path: Path) -> None:
    write_masks(tmp_path, (0, 255))
    for mask in (tmp_path / "masks").glob("*.png"):
        Image.open(mask).save(mask.with_suffix(".jpg"))
        mask.unlink()
    with pytest.raises(UserError, match="JPEG changes values: save masks as PNG"):
        masks.read(tmp_path, classes=["background", "cell"], values=[0, 255])


def test_images_and_masks_in_one_folder(tmp_path: Path) -> None:
    for name in ("0", "0_mask", "1", "1_mask"):
        Image.new("L", (8, 8), name.endswith("mask")).save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match="write the end of the names of masks, such as"):
        masks.read(tmp_path, ".", ".", classes=["background", "cell"])
    assert len(masks.read(tmp_path, ".", ".", classes=["background", "cell"], suffix="_mask").samples) == 2
