"""Splits that cannot train or decide anything are refused before the first job starts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from inputs import write_coco, write_folders, write_image, write_masks, write_yolo
from PIL import Image
from running import Outcome

Plan = Callable[..., Outcome]
BOTH = "class with positive and negative labels"


def keep(folder: Path, count: int) -> None:
    for path in sorted(folder.iterdir())[count:]:
        path.unlink()


def test_all_folds_are_refused_alike(tmp_path: Path, plan: Plan) -> None:
    root = write_folders(tmp_path, ("cat", "dog", "owl"), count=10)
    keep(root / "owl", 1)
    messages = {
        plan("data=image_folder", f"data.root={root}", "data.folds=5", f"data.fold={fold}").message for fold in range(5)
    }
    (message,) = messages
    assert "class 'owl' is in test but not in train" in message and "add images, or remove the class" in message
    write_image(root / "owl" / "more.png")
    counts = [
        plan("data=image_folder", f"data.root={root}", "data.folds=5", f"data.fold={fold}").out for fold in (0, 4)
    ]
    assert all("note: " not in text and "owl" in text for text in counts)


def test_a_class_of_a_single_group_cannot_be_folded(tmp_path: Path, plan: Plan) -> None:
    rows = ["path,kind,group"]
    for i in range(24):
        write_image(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{'owl' if i < 6 else 'cat'},{'one' if i < 6 else i}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    overrides = ["data=csv", f"data.root={tmp_path}", "data.table=t.csv", "data.label=kind", "data.folds=3"]
    messages = {plan(*overrides, f"data.fold={fold}").message for fold in range(3)}
    assert len(messages) == 1 and "class 'owl' is in test but not in train" in messages.pop()


def test_val_without_objects(tmp_path: Path, plan: Plan) -> None:
    root = write_yolo(tmp_path, "names: [a]\n")
    for path in (root / "labels" / "val").iterdir():
        path.write_text("")
    overrides = ["heads=detection", "data=yolo", "data.image_size=64", f"data.root={root}"]
    message = plan(*overrides).message
    assert "the val split has no object that metrics count of detection in its 6 images" in message
    assert "data.splits=DIR" in message and "data.split_ratio=" in message
    next(iter((root / "labels" / "val").iterdir())).write_text("0 0.5 0.5 0.4 0.4\n")
    assert "labelled" not in plan(*overrides).out


def test_val_with_crowds_only(tmp_path: Path, plan: Plan) -> None:
    root = write_coco(tmp_path, {"iscrowd": 1})
    overrides = ["heads=detection", "data=coco", "data.image_size=64", f"data.root={root}", "data.annotations=a.json"]
    assert "no object that metrics count of detection" in plan(*overrides).message


def test_val_of_unlabelled_pixels(tmp_path: Path, plan: Plan) -> None:
    root = write_masks(tmp_path)
    (root / "splits").mkdir()
    for split, numbers in (("train", range(8)), ("val", range(8, 10))):
        (root / "splits" / f"{split}.txt").write_text("".join(f"images/{i}.jpg\n" for i in numbers))
    overrides = ["heads=segmentation", "data=masks", "data.classes=[a,b]", f"data.root={root}", "data.splits=splits"]
    assert plan(*overrides).code == 0
    for i in (8, 9):
        Image.fromarray(np.full((48, 64), 255, dtype=np.uint8)).save(root / "masks" / f"{i}.png")
    assert "no labelled pixel of segmentation in its 2 images" in plan(*overrides).message


@pytest.mark.parametrize(
    ("columns", "override", "val", "evidence"),
    [
        ("striped,broken", "data.labels=[striped,broken]", ("0,0", ","), f"{BOTH} of multilabel"),
        ("striped,broken", "data.labels=[striped,broken]", ("1,1", "1,"), f"{BOTH} of multilabel"),
        ("striped,broken", "data.labels=[striped,broken]", ("1,0", "1,0"), f"{BOTH} of multilabel"),
        ("kind", "data.label=kind", ("", ""), "label of classification"),
        ("width", "data.targets=[width]", ("", ""), "label of regression"),
    ],
)
def test_val_without_labels(
    tmp_path: Path, plan: Plan, columns: str, override: str, val: tuple[str, str], evidence: str
) -> None:
    values = {"striped,broken": ("1,0", "0,1"), "kind": ("cat", "dog"), "width": ("0.5", "2")}[columns]
    rows = [f"path,split,{columns}"]
    for i in range(12):
        write_image(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{'val' if i > 9 else 'train'},{(val if i > 9 else values)[i % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    head = evidence.split()[-1]
    message = plan(f"heads={head}", "data=csv", f"data.root={tmp_path}", "data.table=t.csv", override).message
    assert f"the val split has no {evidence}" in message


def test_every_fold_needs_a_val_that_decides(tmp_path: Path, plan: Plan) -> None:
    root = write_yolo(tmp_path, "names: [a]\n", count=10)
    for path in sorted((root / "labels").rglob("*.txt"))[3:]:
        path.write_text("")
    overrides = ["heads=detection", "data=yolo", "data.image_size=64", f"data.root={root}", "data.folds=4"]
    outcomes = [plan(*overrides, f"data.fold={fold}") for fold in range(4)]
    assert len({outcome.message for outcome in outcomes}) == 1
    assert "cannot be trained, so none of them starts: the val split has no object" in outcomes[0].message
