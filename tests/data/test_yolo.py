"""YOLO's format: boxes, polygons, layouts of the YAML file, and everything that can be wrong with the labels."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from miniatures import CLASSES, HEIGHT, WIDTH, scenes, write_lists, write_yolo
from PIL import Image

from visiontune.data import VisionData
from visiontune.data.readers.yolo import read
from visiontune.errors import UserError

SIZE = (HEIGHT, WIDTH)
NAMES = "names: [brick, tile]\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_yolo(tmp_path / "set")


def say(root: Path, text: str) -> None:
    (root / "data.yaml").write_text(text)


def label(root: Path, line: int, text: str) -> None:
    """Change a line, counted from 1, of the labels of p01."""
    file = root / "labels/train/p01.txt"
    lines = file.read_text().splitlines()
    lines[line - 1] = text
    file.write_text("\n".join(lines))


def bad(root: Path | None, **arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        read(root, **arguments)
    return str(error.value)


def counts(root: Path, **arguments: Any) -> dict[str | None, int]:
    return Counter(sample.split for sample in read(root, **arguments).samples)


ALL = {"train": 8, "val": 2, "test": 2}


def test_boxes(root: Path) -> None:
    source = read(root)
    assert {task: (info.kind, info.classes) for task, info in source.schema.items()} == {
        "detection": ("detection", CLASSES)
    }
    assert source.notes == [] and counts(root) == ALL
    by_path = {sample.path: sample for sample in source.samples}
    for scene in scenes():
        sample = by_path[f"images/{scene.split}/{scene.name}.jpg"]
        target = sample.targets["detection"].load(SIZE)
        expected = torch.tensor([box for _, box in scene.objects], dtype=torch.float32).reshape(-1, 4)
        assert torch.allclose(target["boxes"].as_subclass(torch.Tensor), expected, atol=1e-4)
        assert target["labels"].tolist() == [CLASSES.index(name) for name, _ in scene.objects]


def test_polygons(tmp_path: Path) -> None:
    source = read(write_yolo(tmp_path / "set", polygons=True))
    assert list(source.schema) == ["detection", "instances"]
    by_path = {sample.path: sample for sample in source.samples}
    for scene in scenes():
        target = by_path[f"images/{scene.split}/{scene.name}.jpg"].targets["instances"].load(SIZE)
        assert target["masks"].shape == (len(scene.objects), *SIZE)
        for (name, box), mask, found in zip(scene.objects, target["masks"], target["boxes"], strict=True):
            assert torch.equal(mask.bool(), torch.from_numpy(scene.labels == 1 + CLASSES.index(name)))
            assert torch.allclose(found.as_subclass(torch.Tensor), torch.tensor(box).float(), atol=1e-4)


def test_empty_and_missing_label_files_are_pictures_without_objects(root: Path) -> None:
    (root / "labels/train/p00.txt").unlink()
    (root / "labels/train/p01.txt").write_text("")
    source = read(root)
    assert [len(sample.targets["detection"].labels) for sample in source.samples][2:4] == [0, 0]
    assert source.notes == ["1 image has no label file, and so no objects"]
    shutil.rmtree(root / "labels")
    assert bad(root) == (
        f"no image has a label file: that of images/train/p00.jpg should be {root}/labels/train/p00.txt"
    )


def test_label_files_without_a_picture_are_said(root: Path) -> None:
    (root / "labels/val/p77.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "labels/val/classes.txt").write_text("brick\ntile\n")
    assert read(root).notes == ["1 label file has no image: labels/val/p77.txt"]


def test_lists_of_pictures(root: Path) -> None:
    for split in ALL:
        names = [f"images/{split}/{scene.name}.jpg" for scene in scenes() if scene.split == split]
        prefix = "./" if split == "val" else f"{root}/" if split == "test" else ""
        (root / f"{split}.txt").write_text("\n".join(prefix + name for name in names) + "\n")
    say(root, f"train: train.txt\nval: [val.txt]\ntest: test.txt\n{NAMES}")
    assert counts(root) == ALL and read(root).notes == []
    (root / "train.txt").write_text("images/train/p00.jpg\n")
    assert counts(root) == {"train": 1, "val": 2, "test": 2} and read(root).notes == []
    (root / "train.txt").write_text("images/train/p00.jpg\nimages/train/gone.jpg\n")
    assert bad(root) == f"1 listed images do not exist:\n  {root}/train.txt:2: images/train/gone.jpg"


def test_several_folders_of_a_split(root: Path) -> None:
    say(root, f"train: [images/train, images/val]\nval: images/test\n{NAMES}")
    assert counts(root) == {"train": 10, "val": 2}


def test_the_file_lies_beside_or_elsewhere(root: Path) -> None:
    (root / "conf").mkdir()
    shutil.move(root / "data.yaml", root / "conf" / "fruit.yaml")
    file = root / "conf" / "fruit.yaml"
    assert counts(root, yaml="conf/fruit.yaml") == ALL  # its path is relative to the root
    file.write_text(file.read_text().replace("path: .", "path: .."))
    assert counts(root, yaml="conf/fruit.yaml") == ALL
    file.write_text(file.read_text().replace("path: ..", f"path: {root}"))
    assert counts(None, yaml=str(file)) == ALL  # type: ignore[arg-type]


def test_paths_of_another_machine(root: Path) -> None:
    say(root, f"path: /content/fruit\ntrain: ../images/train\nval: ../images/val\n{NAMES}")
    source = read(root)
    assert Counter(sample.split for sample in source.samples) == {"train": 8, "val": 2}
    assert source.notes == [f"path /content/fruit of {root}/data.yaml does not exist: {root} is used instead"]


@pytest.mark.parametrize("as_text", [False, True], ids=["link", "link as text"])
def test_pictures_behind_a_relative_link(root: Path, as_text: bool) -> None:
    """Git writes a link as a text file where the system has none; labels stay on this side of it."""
    shutil.move(root / "images", root.parent / "images")
    if as_text:
        (root / "images").write_text("../images")
    else:
        (root / "images").symlink_to("../images")
    source = read(root)
    assert Counter(sample.split for sample in source.samples) == ALL and source.notes == []
    assert sum(len(sample.targets["detection"].labels) for sample in source.samples) == 18
    assert all((root / sample.path).is_file() for sample in source.samples)


def test_labels_beside_the_pictures(root: Path) -> None:
    for split in ALL:
        (root / "flat" / split).mkdir(parents=True)
        for kind in ("images", "labels"):
            for file in (root / kind / split).iterdir():
                shutil.copy(file, root / "flat" / split)
    say(root, f"train: flat/train\nval: flat/val\n{NAMES}")
    source = read(root)
    assert sum(len(sample.targets["detection"].labels) for sample in source.samples) == 16 and source.notes == []


def test_ids_with_gaps(root: Path) -> None:
    say(root, (root / "data.yaml").read_text().replace("0: brick", "7: tile").replace("1: tile", "3: brick"))
    for file in (root / "labels").rglob("*.txt"):
        rows = [line.split(" ", 1) for line in file.read_text().splitlines()]
        file.write_text("".join(f"{(3, 7)[int(identity)]} {rest}\n" for identity, rest in rows))
    source = read(root)
    assert source.schema["detection"].classes == ["brick", "tile"]
    assert source.samples[2].targets["detection"].labels == [0]


def test_lists_of_splits_count_instead(root: Path) -> None:
    write_lists(root / "splits")
    (root / "splits/val.txt").write_text("p00\n")
    (root / "splits/train.txt").write_text("p01\nimages/test/p10.jpg\n")
    (root / "splits/test.txt").unlink()
    assert {s.path: s.split for s in read(root, splits="splits").samples} == {
        "images/train/p00.jpg": "val",
        "images/train/p01.jpg": "train",
        "images/test/p10.jpg": "train",
    }


def test_grey_pictures(root: Path, make: Callable[..., VisionData]) -> None:
    path = root / "images/val/p08.jpg"
    Image.open(path).convert("L").save(path)
    data = make("data=yolo", f"data.root={root}", "data.image_size=32", "data.batch_size=2")
    assert data.counts()["train"]["detection"] == {"brick": 7, "tile": 6}
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (2, 3, 32, 32) and torch.equal(batch["image"][0, 0], batch["image"][0, 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "labels/train/p01.txt:2: unknown class 2, the ids of names are 0, 1"),
        ("0.5 0.5 0.5 0.1 0.1", "labels/train/p01.txt:2: unknown class 0.5, the ids of names are 0, 1"),
        (
            "brick 0.5 0.5 0.1 0.1",
            "labels/train/p01.txt:2: 'brick 0.5 0.5 0.1 0.1' is not a label: write CLASS X Y WIDTH",
        ),
        ("1 0.5 0.5 0 0.1", "labels/train/p01.txt:2: box 32, 21.6, 32, 26.4 has no area"),
        ("1 0.9 0.5 0.4 0.1", "labels/train/p01.txt:2: box 44.8, 21.6, 70.4, 26.4 leaves its image of 64x48 pixels"),
        ("1 nan 0.5 0.4 0.1", "labels/train/p01.txt:2: box nan, 21.6, nan, 26.4 is not made of numbers"),
        ("1 0.1 0.1 0.3 0.3 0.1", "labels/train/p01.txt:2: its polygon has 5 numbers; three points or more are x, y,"),
        ("1 0.1 0.1 1.3 0.3 0.1 0.8", "labels/train/p01.txt:2: box 6.4, 4.8, 83.2, 38.4 leaves its image of 64x48"),
        ("1", "labels/train/p01.txt:2: its polygon has 0 numbers"),
    ],
)
def test_labels_that_cannot_be(root: Path, text: str, message: str) -> None:
    label(root, 2, text)
    found = bad(root)
    if "box" in message or "polygon" in message:
        first, _, found = found.partition("\n  ")
        assert first.startswith("1 of 18 boxes cannot be used. Repair them, or write data.on_bad_box=drop")
        assert read(root, on_bad_box="drop").notes == [
            "1 bad box is left out (data.on_bad_box=drop): labels/train/p01.txt:2"
        ]
    assert found.startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\nval: images/dev\n" + NAMES, "{root}/data.yaml: val: {root}/images/dev does not exist."),
        ("train: labels/train\n" + NAMES, "{root}/data.yaml: train: {root}/labels/train has no images"),
        ("train: [images/train, labels/train]\n" + NAMES, "{root}/data.yaml: train: {root}/labels/train has no images"),
        (NAMES, "{root}/data.yaml: no train and val: write folders of images, such as train: images/train"),
        ("train: images/train\n", "{root}/data.yaml: names: write a name for each class, such as names: [cat, dog]"),
        ("train: images/train\nnames: {a: cat}\n", "{root}/data.yaml: names: write a name for each class"),
        ("train: images/train\nnames: cat\n", "{root}/data.yaml: names: write a name for each class"),
        ("train: images/train\nnames: [cat, cat]\n", "{root}/data.yaml: names: write a name for each class"),
        ("train: images/train\nnc: 3\n" + NAMES, "{root}/data.yaml: nc is 3, but there are 2 names"),
        ("train: images/train\nval: images/train\n" + NAMES, "images/train/p00.jpg is in both train and val of {root}"),
        ("train: [images\nval: 3", "{root}/data.yaml:2: broken YAML ("),
        ("just words", "{root}/data.yaml: not a YOLO data set: expected the keys train, val and names"),
    ],
)
def test_files_that_cannot_be(root: Path, text: str, message: str) -> None:
    say(root, text)
    assert bad(root).startswith(message.format(root=root))


def test_no_file(root: Path) -> None:
    assert bad(root, yaml="coco.yaml") == f"data.yaml: the file {root}/coco.yaml does not exist. Write data.yaml=FILE"
