"""Wrong annotations: exit code 2 and one message with file and line or id, before anything is started."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from miniatures import FORMATS, change_json
from PIL import Image
from running import Command, Outcome


@pytest.fixture
def run(command: Command, small: list[str], tmp_path: Path) -> Callable[..., Outcome]:
    """`run("plan", "voc", change)`: run the command on a miniature set that `change(root)` damages."""

    def run_on(verb: str, name: str, change: Callable[[Path], Any], *overrides: str) -> Outcome:
        write, keys = FORMATS[name]
        root = tmp_path / name
        if not root.exists():
            change(write(root))
        return command(
            verb, *small, f"paths.logs={tmp_path / 'logs'}", f"data={name}", f"data.root={root}", *keys, *overrides
        )

    return run_on


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        pytest.param(
            "coco",
            lambda root: (root / "val.json").write_text('{\n"images": [],\n"categories" 3}'),
            "val.json:3: broken JSON (Expecting ':' delimiter, column 14)",
            id="broken JSON",
        ),
        pytest.param(
            "voc",
            lambda root: replace(root / "Annotations/p01.xml", "</bndbox>", ""),
            "Annotations/p01.xml:8: broken XML (mismatched tag)",
            id="broken XML",
        ),
        pytest.param(
            "coco",
            lambda root: change_json(root / "train.json", lambda d: d["annotations"][2].update(category_id=1)),
            "train.json annotation 104 (images/train/p01.jpg): unknown category 1, known are 3, 7",
            id="unknown category",
        ),
        pytest.param(
            "yolo",
            lambda root: replace(root / "labels/val/p08.txt", "0 ", "2 "),
            "labels/val/p08.txt:1: unknown class 2, the ids of names are 0, 1",
            id="unknown class",
        ),
        pytest.param(
            "coco",
            lambda root: (root / "images/val/p09.jpg").unlink(),
            "1 of 2 images in val.json do not exist under {root}/images/val; is data.images correct?\n"
            "  image 124: images/val/p09.jpg",
            id="image listed but missing",
        ),
        pytest.param(
            "csv",
            lambda root: (root / "images/p09.jpg").unlink(),
            "1 of 12 images do not exist under {root}; is data.images correct?\n  table.csv:11: images/p09.jpg",
            id="image in a table but missing",
        ),
        pytest.param(
            "coco",
            lambda root: change_json(root / "train.json", lambda d: d["annotations"][2].update(image_id=999)),
            "train.json: annotation 104 is for image 999, which the file does not list",
            id="annotation for no image",
        ),
        pytest.param(
            "voc",
            lambda root: (root / "JPEGImages/p09.jpg").unlink(),
            "1 annotations have no image of the same name in {root}/JPEGImages:\n  Annotations/p09.xml",
            id="XML for no image",
        ),
        pytest.param(
            "masks",
            lambda root: (root / "images/p09.jpg").unlink(),
            "1 masks have no image of the same name; add or remove:\n  masks/p09.png",
            id="mask for no image",
        ),
        pytest.param(
            "masks",
            lambda root: Image.new("L", (64, 48), 7).save(root / "masks/p09.png"),
            "1 masks have values that belong to no class; the classes have 0, 1, 2. Add them to data.classes and "
            "data.values, or write data.ignore_value=7 to ignore a value:\n  masks/p09.png: 7",
            id="mask value outside the classes",
        ),
        pytest.param(
            "masks",
            lambda root: Image.new("L", (64, 40)).save(root / "masks/p09.png"),
            "1 masks have another size than their images; repair or remove them:\n"
            "  masks/p09.png: 64x40 pixels, its image images/p09.jpg has 64x48 pixels",
            id="mask of another size",
        ),
        pytest.param(
            "coco",
            lambda root: change_json(root / "train.json", lambda d: d["images"][2].update(id=100)),
            "train.json: two images have the id 100: images/train/p00.jpg and p02.jpg",
            id="duplicate image ids",
        ),
        pytest.param(
            "csv",
            lambda root: replace(root / "table.csv", ",1,2.1", ",1,wide"),
            "table.csv:2: area 'wide' is not a number: correct it, or leave it empty if it is unknown",
            id="text in a table",
        ),
        pytest.param(
            "coco",
            lambda root: change_json(root / "val.json", lambda d: d["categories"][0].update(name="roof")),
            "val.json and train.json have different categories, such as 7: 'roof'. Write the same list in all files.",
            id="other label map",
        ),
    ],
)
def test_refused(
    run: Callable[..., Outcome], tmp_path: Path, name: str, change: Callable[[Path], Any], message: str
) -> None:
    assert run("train", name, change).message == message.format(root=tmp_path / name)
    assert not (tmp_path / "logs").exists()


BAD_BOXES = [
    pytest.param(
        "coco",
        lambda root: change_json(root / "train.json", lambda d: d["annotations"][2].update(bbox=[50, 1, 30, 9])),
        "train.json annotation 104 (images/train/p01.jpg)",
        "box 50, 1, 80, 10 leaves its image of 64x48 pixels",
        id="coco",
    ),
    pytest.param(
        "voc",
        lambda root: replace(root / "Annotations/p00.xml", "<xmax>21<", "<xmax>6<"),
        "Annotations/p00.xml:4",
        "box 6, 13, 6, 27 has no area",
        id="voc",
    ),
    pytest.param(
        "yolo",
        lambda root: (root / "labels/train/p02.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.5 0.75 0.2 0.75\n"),
        "labels/train/p02.txt:2",
        "box 25.6, 18, 38.4, 54 leaves its image of 64x48 pixels",
        id="yolo",
    ),
]


@pytest.mark.parametrize(("name", "change", "where", "what"), BAD_BOXES)
def test_bad_boxes(
    run: Callable[..., Outcome], name: str, change: Callable[[Path], Any], where: str, what: str
) -> None:
    assert run("plan", name, change).message == (
        "1 of 18 boxes cannot be used. Repair them, or write data.on_bad_box=drop (leave them out) or "
        f"data.on_bad_box=clip (cut them at their image's edge):\n  {where}: {what}"
    )
    dropped = run("plan", name, change, "data.on_bad_box=drop")
    assert dropped.code == 0, dropped.err
    assert f"note: 1 bad box is left out (data.on_bad_box=drop): {where}" in dropped.out.splitlines()


def test_an_xml_size_of_zero_is_no_error(run: Callable[..., Outcome]) -> None:
    zero = "<size><width>0</width><height>0</height><depth>3</depth></size>"
    real = zero.replace("<width>0", "<width>64").replace("<height>0", "<height>48")
    outcome = run("plan", "voc", lambda root: replace(root / "Annotations/p01.xml", real, zero))
    assert outcome.code == 0 and "another size than annotated" not in outcome.out
