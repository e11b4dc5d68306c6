"""Masks as people have them: names with a suffix, images without a mask, classes called 0, true or on."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from inputs import write_image, write_masks
from PIL import Image
from running import SMALL, Outcome, TrainOnce

from visiontune.data.readers import instance_masks, masks
from visiontune.data.schema import Source
from visiontune.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_masks(tmp_path / "set")


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


def add_suffix(root: Path) -> Path:
    """`masks/0_mask.png` for `images/0.jpg`."""
    for path in (root / "masks").iterdir():
        path.rename(path.with_stem(f"{path.stem}_mask"))
    return root


def test_masks_with_a_suffix(root: Path) -> None:
    expected = masks.read(root, classes=["a", "b"]).samples
    source = masks.read(add_suffix(root), classes=["a", "b"], suffix="_mask")
    assert [sample.path for sample in source.samples] == [sample.path for sample in expected] and source.notes == []
    assert Path(source.samples[3].targets["segmentation"].path).name == "3_mask.png"
    message = refused(lambda: masks.read(root, classes=["a", "b"]))
    assert "no mask for any image" in message and message.endswith("Write data.suffix=_mask")


def test_masks_with_a_suffix_beside_their_images(root: Path) -> None:
    add_suffix(root)
    for path in [*(root / "masks").iterdir()]:
        path.rename(root / "images" / path.name)
    write_image(root / "images/photo.png")
    source = masks.read(root, "images", "images", classes=["a", "b"], suffix="_mask")
    assert len(source.samples) == 10 and source.notes == ["1 image without a mask is left out: images/photo.png"]
    assert len(instance_masks.read(root, "images", "images", suffix="_mask", classes=["a"]).samples) == 10
    assert "are the same folder" in refused(lambda: instance_masks.read(root, "images", "images/", classes=["a"]))


def test_instance_masks_with_a_folder_for_each_split(root: Path) -> None:
    for split, names in (("train", range(8)), ("val", range(8, 10))):
        for kind, suffix in (("images", "jpg"), ("masks", "png")):
            (root / split / kind).mkdir(parents=True)
            for i in names:
                (root / kind / f"{i}.{suffix}").rename(root / split / kind / f"{i}.{suffix}")
    folders = [{split: f"{split}/{kind}" for split in ("train", "val")} for kind in ("images", "masks")]
    samples = instance_masks.read(root, *folders, classes=["a"]).samples
    assert [sample.split for sample in samples] == ["train"] * 8 + ["val"] * 2


@pytest.mark.parametrize("line", ["images/{}.jpg", "{}", "images\\{}.jpg", "{}.jpg"])
def test_lists_of_images_without_a_mask(root: Path, line: str) -> None:
    for i in (3, 4):
        (root / f"masks/{i}.png").unlink()
    (root / "splits").mkdir()
    for split, numbers in (("train", range(6)), ("val", range(6, 8)), ("test", range(8, 10))):
        (root / f"splits/{split}.txt").write_text("".join(f"{line.format(i)}\n" for i in numbers))
    for read in (masks.read, instance_masks.read):
        with pytest.raises(UserError) as error:
            read(root, classes=["a"], splits="splits")
        message = str(error.value)
        assert message.startswith("2 images in the lists have no mask; add it, or remove these lines:\n")
        names = [line.format(i).replace("\\", "/") for i in (3, 4)]
        assert all(f"{root}/splits/train.txt:{i}: {name!r}" in message for i, name in zip((4, 5), names, strict=True))
    (root / "splits/train.txt").write_text("0\nghost\n")
    assert "train.txt:2: 'ghost': no such image" in refused(
        lambda: masks.read(root, classes=["a", "b"], splits="splits")
    )


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ("[0,1]", ["0", "1"]),
        ("[true,false]", ["true", "false"]),
        ("[1.0,on]", ["1.0", "on"]),
        ("[007,1e3]", ["007", "1e3"]),
    ],
)
def test_names_of_classes_are_text(root: Path, plan: Callable[..., Outcome], classes: str, names: list[str]) -> None:
    out = plan("heads=segmentation", "data=masks", f"data.classes={classes}", f"data.root={root}").out
    table = out[out.index("data: segmentation, 2 classes") :].splitlines()
    assert [line.split()[0] for line in table if line.split()[:1] in [[name] for name in names]] == names


def test_names_of_classes_in_python(root: Path) -> None:
    source = masks.read(root, classes=[0, True])  # type: ignore[list-item]
    assert source.schema["segmentation"].classes == ["0", "true"]
    for classes in (["1", 1], ["Cafe\u0301", "Caf\u00e9"], ["a", " a"]):
        assert refused(lambda c=classes: masks.read(root, classes=c)).endswith("two classes have the same name")  # type: ignore[misc]


def test_booleans_in_a_yaml_file_need_quotes(root: Path, tmp_path: Path, plan: Callable[..., Outcome]) -> None:
    (tmp_path / "configs/experiment").mkdir(parents=True)
    file = tmp_path / "configs/experiment/lamps.yaml"
    keys = ["experiment=lamps", f"data.root={root}", "--config-dir", tmp_path / "configs"]
    defaults = "defaults:\n  - override /data: masks\n  - override /heads: segmentation\n"
    text = f"# @package _global_\n{defaults}data:\n  classes: "
    file.write_text(f"{text}[off, on]\n")
    assert "in YAML with quotes" in plan(*keys).message
    for names, table in (("['off', '1.10']", r"\noff .*\n1\.10 "), ("[0, 1]", r"\n0 .*\n1 ")):
        file.write_text(f"{text}{names}\n")
        assert re.search(rf"data: segmentation, 2 classes.*{table}", plan(*keys).out, re.DOTALL)


@pytest.mark.slow
def test_a_run_with_numbers_as_classes(root: Path, train_once: TrainOnce) -> None:
    keys = ["heads=segmentation", "data=masks", f"data.root={root}", "data.classes=[0,1]", "logger=none"]
    run = train_once(*SMALL, *keys, "data.image_size=32", "epochs=1").run
    assert json.loads((run.path / "status.json").read_text())["status"] == "finished"
    assert {f"val/segmentation/iou/{name}" for name in "01"} <= set(json.loads((run.path / "metrics.json").read_text()))


def test_blank_masks_may_be_links(root: Path) -> None:
    for i in (3, 4):
        (root / f"masks/{i}.png").unlink()
        os.symlink("0.png", root / f"masks/{i}.png")
    source = masks.read(root, classes=["a", "b"])
    assert len(source.samples) == 10 and source.notes == []


@pytest.mark.parametrize("read", [masks.read, instance_masks.read])
def test_turned_images_and_unreadable_masks(root: Path, read: Callable[..., Source]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(root / "images/0.jpg")
    image.save(root / "images/0.jpg", exif=exif)
    classes = ["a", "b"] if read is masks.read else ["a"]
    assert "images/0.jpg has" in refused(lambda: read(root, classes=classes))  # the mask has the stored size
    source = read(root, classes=classes, orientation="ignore")
    assert len(source.samples) == 10 and source.notes == [
        "1 image has an EXIF orientation, which is ignored (data.orientation=ignore): images/0.jpg"
    ]
    (root / "masks/3.png").write_bytes(b"nonsense")
    (root / "images/4.jpg").write_bytes(b"nonsense")
    source = read(root, classes=classes, orientation="ignore", on_bad_image="skip")
    assert [Path(sample.path).stem for sample in source.samples] == list("01256789")
    assert source.notes[0].startswith("2 files cannot be read, so their samples are left out")
