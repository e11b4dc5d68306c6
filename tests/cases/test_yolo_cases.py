"""YOLO data sets as people have them: keypoints, copies, class names, paths of other machines, forms of label files."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from inputs import write_image, write_yolo
from PIL import Image
from running import Outcome

from visiontune.data.readers.yolo import read
from visiontune.data.schema import Source
from visiontune.errors import UserError

BOX = "0 0.5 0.5 0.25 0.5\n"  # 24, 12, 40, 36 in images of 64x48
NAMES = "names: [cup]\n"
ALL = {"train": 2, "val": 2}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_yolo(tmp_path / "set", NAMES, BOX, count=2)


def write_labels(root: Path, text: str | bytes) -> None:
    for file in (root / "labels").rglob("*.txt"):
        file.write_bytes(text if isinstance(text, bytes) else text.encode())


def write_config(root: Path, text: str) -> None:
    (root / "data.yaml").write_text(text)


def boxes(source: Source) -> list[list[float]]:
    return [box for sample in source.samples for box in sample.targets["detection"].boxes.round(3).tolist()]


def splits(source: Source) -> dict[str | None, int]:
    return Counter(sample.split for sample in source.samples)


def message(root: Path, **arguments: str) -> str:
    with pytest.raises(UserError) as error:
        read(root, **arguments)
    return str(error.value)


POINTS = " ".join(f"{0.3 + 0.02 * i:.2f} {0.4 + 0.01 * i:.2f}" for i in range(4))


def test_keypoints(root: Path) -> None:
    write_labels(root, f"{BOX.strip()} {POINTS}\n")
    write_config(root, f"train: images/train\nval: images/val\nkpt_shape: [4, 2]\n{NAMES}")
    source = read(root)
    assert boxes(source) == [[24, 12, 40, 36]] * 4 and list(source.schema) == ["detection"]
    assert source.notes == ["4 labels have keypoints: their boxes are used, their keypoints are not"]
    write_config(root, f"train: images/train\nval: images/val\n{NAMES}")
    assert message(root).startswith(
        "labels/train/train0.txt:1: 12 numbers after the class are either a polygon or a box"
    )
    assert "data.label_format=polygon" in message(root)
    assert boxes(read(root, label_format="keypoints")) == boxes(source)
    assert "instances" in read(root, label_format="polygon").schema


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ("[4, 3]", "it has 12 numbers after its class; kpt_shape: [4, 3] needs 16"),
        ("[0, 2]", "kpt_shape is ['0', '2']: write kpt_shape: [NUMBER, 2] or [NUMBER, 3]"),
        ("17", "kpt_shape is '17': write kpt_shape"),
        ("[[4], 2]", "kpt_shape is [['4'], '2']: write kpt_shape"),
    ],
)
def test_keypoints_of_another_shape(root: Path, shape: str, text: str) -> None:
    write_labels(root, f"{BOX.strip()} {POINTS}\n")
    write_config(root, f"train: images/train\nval: images/val\nkpt_shape: {shape}\n{NAMES}")
    assert text in message(root)


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5", [16, 12, 48, 24]),  # corners, of a rotated box as well
        ("0 0.75 0.75 0.875 0.75 0.875 0.875", [48, 36, 56, 42]),
        ("0,0.5,0.5,0.25,0.5", [24, 12, 40, 36]),
        ("0, 0.5, 0.5, 0.25, 0.5", [24, 12, 40, 36]),
        ("0.0\t0.5\t0.5\t0.25\t0.5", [24, 12, 40, 36]),
        ("\ufeff0 .5 5e-1 0.25 0.5\r\n\r\n", [24, 12, 40, 36]),
    ],
)
def test_forms_of_a_line(root: Path, line: str, box: list[float]) -> None:
    write_labels(root, line)
    source = read(root)
    assert boxes(source) == [box] * 4
    polygons = "instances" in source.schema
    assert [note.split(". If")[0] for note in source.notes] == (
        [f"4 labels are read as polygons of {len(line.split()) // 2} points"] if polygons else []
    )


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("0 0.5 0.5 0.25 0.5 0.91", "its polygon has 5 numbers; three points or more are x, y, x, y, x, y, ..., and a"),
        (
            "0 0.5 0.5 0.25 0.5 0.3 0.4 2",
            "x, y, ...; if they are a box and keypoints, write kpt_shape in the YAML file",
        ),
        ("0 0,5 0,5 0,25 0,5", "'0 0,5 0,5 0,25 0,5' is not a label: write CLASS X Y WIDTH HEIGHT"),
        ("cup 0.5 0.5 0.25 0.5", "is not a label"),
        ("7 0.5 0.5 0.25 0.5", "unknown class 7, the ids of names are 0"),
        ("nan 0.5 0.5 0.25 0.5", "unknown class nan"),
        ("0 320 240 60 80", "the numbers of all labels are larger than 1. If they are pixels, divide them by"),
        ("0 1e9 1 1 1e9 1 1", "its polygon is far outside its image"),
        (b"\x89PNG\r\n\0\0", "not a text file"),
    ],
)
def test_lines_that_are_no_labels(root: Path, line: str | bytes, text: str) -> None:
    write_labels(root, line)
    assert text in message(root) and "labels/train/train0.txt" in message(root)


def test_a_copy_reads_its_own_images(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    for config, note in (
        (
            f"path: {root}\ntrain: images/train\nval: images/val\n",
            f"path {root} of {copy}/data.yaml is outside {copy}: ",
        ),
        (f"train: {root}/images/train\nval: images/val\n", f"train: {root}/images/train of {copy}/data.yaml is read f"),
        (
            "path: ../set\ntrain: images/train\nval: images/val\n",
            f"path ../set of {copy}/data.yaml is outside {copy}: ",
        ),
    ):
        write_config(copy, config + NAMES)
        source = read(copy)
        assert splits(source) == ALL and {sample.path.split("/")[0] for sample in source.samples} == {"images"}
        assert [part.startswith(note) for part in source.notes] == [True], source.notes
    shutil.rmtree(copy / "images")
    source = read(copy)
    assert source.samples[0].path == "../set/images/train/train0.jpg" and splits(source) == ALL
    assert f"train: {root}/images/train is outside {copy}" in source.notes


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("{0: off, 1: on}", ["off", "on"]),
        ("{'1': no, '0': yes}", ["yes", "no"]),
        ("\n  0: 2024-06-01\n  1: 1:30", ["2024-06-01", "1:30"]),
        ("[1, 0x2]", ["1", "0x2"]),
        ("[null, ~]", ["null", "~"]),
    ],
)
def test_names_are_text(root: Path, names: str, classes: list[str]) -> None:
    write_config(root, f"train: images/train\nval: images/val\nnc: 2\nnames: {names}\n")
    assert read(root).schema["detection"].classes == classes


def test_nested_folders_are_refused(root: Path) -> None:
    write_config(root, f"train: [images/train, [images/val]]\n{NAMES}")
    assert message(root).startswith(f"{root}/data.yaml: train: expected a folder or a list of folders")


def test_one_name_no_names_and_a_file_of_names(root: Path) -> None:
    start = "train: images/train\nvalid: images/val\n"
    write_config(root, f"{start}nc: 1\nnames: helmet\n")
    source = read(root)
    assert source.schema["detection"].classes == ["helmet"] and splits(source) == ALL
    write_config(root, f"{start}nc: 2\n")
    source = read(root)
    assert source.schema["detection"].classes == ["class_0", "class_1"]
    assert source.notes == [f"{root}/data.yaml has no names: the classes are class_0 to class_1"]
    (root / "obj.names").write_text("cup\r\nplate\n\n")
    write_config(root, f"{start}names: obj.names\n")
    assert read(root).schema["detection"].classes == ["cup", "plate"]


@pytest.mark.parametrize(
    "names",
    ["names: cup", "names: [[cup, plate]]", "names: {cup: 0}", "names: [a, a]", "names: ['']", "nc: 0", "nc: x"],
)
def test_names_that_are_refused(root: Path, names: str) -> None:
    write_config(root, f"train: images/train\n{names}\n")
    assert message(root).startswith(f"{root}/data.yaml: n")


@pytest.mark.parametrize(
    "entry", ["C:\\sets\\fruit\\images\\train", "/home/ann/set/images/train", "images\\train", "../images/train"]
)
def test_folders_of_other_machines(root: Path, entry: str) -> None:
    write_config(root, f"path: D:\\sets\ntrain: {entry}\nval: images/val\n{NAMES}")
    source = read(root)
    assert splits(source) == ALL and boxes(source) == [[24, 12, 40, 36]] * 4


def test_lists_of_other_machines(root: Path) -> None:
    lines = ["C:\\set\\images\\train\\train0.jpg", "/darknet/data/images/train/TRAIN1.jpg", ""]
    (root / "train.txt").write_text("\r\n".join(lines))
    write_config(root, f"train: train.txt\nval: images/val\n{NAMES}")
    source = read(root)
    assert splits(source) == ALL and boxes(source) == [[24, 12, 40, 36]] * 4
    assert [note.split(":")[0] for note in source.notes] == [f"2 images have another path than in {root}/train.txt"]


def test_letter_case_and_unicode_of_label_files(root: Path) -> None:
    shutil.move(root / "labels", root / "Labels")
    shutil.move(root / "Labels/train/train0.txt", root / "Labels/train/Train0.TXT")
    write_image(root / "images/val/Cafe\u0301.jpg")
    shutil.move(root / "Labels/val/val0.txt", root / "Labels/val/Café.txt")
    source = read(root)
    assert boxes(source) == [[24, 12, 40, 36]] * 4
    assert source.notes == ["1 image has no label file, and so no objects"]


def test_some_classes(root: Path) -> None:
    write_labels(root, "1 0.5 0.5 0.25 0.5\n0 0.5 0.5 0.5 0.5\n2 0.5 0.5 0.5 0.5\n")
    write_config(root, "train: images/train\nval: images/val\nnames: [cup, 1, plate]\n")
    source = read(root, include=["plate", "1"])
    assert source.schema["detection"].classes == ["1", "plate"]
    assert [sample.targets["detection"].labels for sample in source.samples] == [[0, 1]] * 4
    assert source.notes == ["4 objects of other classes are background (data.include): 4 cup"]


def test_turned_images(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (root / "images").rglob("*.jpg"):
        Image.open(path).save(path, exif=exif)
    write_labels(root, "0 0.2 0.1 0.2 0.1\n")
    turned, stored = read(root), read(root, orientation="ignore")
    assert boxes(turned)[0] == pytest.approx([4.8, 3.2, 14.4, 9.6], abs=1e-5)
    assert boxes(stored)[0] == pytest.approx([6.4, 2.4, 19.2, 7.2], abs=1e-5)
    assert "4 images have an EXIF orientation" in turned.notes[0] and "orientation=ignore" in stored.notes[0]
    assert len(turned.notes) == len(stored.notes) == 1


def test_bad_images(root: Path) -> None:
    (root / "images/train/train0.jpg").write_bytes(b"no image")
    assert "data.on_bad_image=skip" in message(root)
    source = read(root, on_bad_image="skip")
    assert splits(source) == {"train": 1, "val": 2} and "1 file cannot be read" in source.notes[0]


def test_the_plan(plan: Callable[..., Outcome], root: Path) -> None:
    write_labels(root, f"{BOX.strip()} {POINTS}\n")
    data = ["heads=detection", "data=yolo", f"data.root={root}", "data.batch_size=1"]
    outcome = plan(*data)
    assert outcome.code == 2 and "are either a polygon or a box with keypoints" in outcome.message
    outcome = plan(*data, "data.label_format=keypoints")
    assert outcome.code == 0 and "note: 4 labels have keypoints: their boxes are used" in outcome.out


def test_links_in_two_splits(root: Path, tmp_path: Path) -> None:
    (root / "images/val/more.jpg").symlink_to("../train/train0.jpg")
    (root / "images/train/again.jpg").symlink_to("train1.jpg")
    source = read(root)
    assert splits(source) == ALL and "images/val/more.jpg" not in {sample.path for sample in source.samples}
    (note,) = source.notes
    links = "images/train/again.jpg, images/val/more.jpg"
    assert note == f"2 links that repeat files or folders in {root} are left out: {links}"
    pool = write_image(tmp_path / "pool/a.jpg")
    for split in ("train", "val"):
        (root / f"images/{split}/linked.jpg").symlink_to(pool)
    text = message(root)
    assert f"{root}/images/train/linked.jpg and {root}/images/val/linked.jpg are the same image, {pool}" in text
    assert "An image has one class and one split: remove one of the links" in text


def test_links_in_the_folders_of_one_split(root: Path) -> None:
    (root / "images/more").mkdir()
    for i in range(2):
        (root / f"images/more/{i}.jpg").symlink_to(f"../train/train{i}.jpg")
    write_config(root, f"train: [images/train, images/more]\nval: images/val\n{NAMES}")
    text = message(root)
    assert text.startswith(
        f"{root}/data.yaml: train: {root}/images/more has no images\nnote: 2 links that repeat files"
    )
    write_image(root / "images/more/2.jpg")
    assert splits(read(root)) == {"train": 3, "val": 2}
    pool = write_image(root / "pool/a.jpg")
    for folder in ("more", "train"):
        (root / f"images/{folder}/linked.jpg").symlink_to(pool)
    source = read(root)
    assert splits(source) == {"train": 4, "val": 2} and source.notes[0].startswith("3 links that repeat files")
    write_config(root, f"train: images\nval: images/val\n{NAMES}")
    assert "images/val/val0.jpg is in both train and val" in message(root)


@pytest.mark.parametrize("key", ["kpt_shape", "names", "nc"])
def test_references_that_grow(root: Path, key: str) -> None:
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 40))
    names = "" if key == "names" else NAMES
    write_config(root, f"l0: &l0 [a]\n{levels}train: images/train\nval: images/val\n{names}{key}: *l39\n")
    assert message(root).startswith(f"{root}/data.yaml: {key}") and len(message(root)) < 500
