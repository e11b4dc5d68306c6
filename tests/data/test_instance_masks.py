"""Masks in which every object has its own value."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import HEIGHT, WIDTH, scenes, write_lists
from PIL import Image
from real_layouts import number_objects, save_values, write_pennfudan

from visiontune.data.readers.instance_masks import read
from visiontune.errors import UserError

SIZE = (HEIGHT, WIDTH)
KEYS: dict[str, Any] = {"images": "PNGImages", "masks": "PedMasks", "suffix": "_mask", "classes": ["person"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_pennfudan(tmp_path)


def bad(root: Path, **arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        read(root, **KEYS | arguments)
    return str(error.value)


def test_boxes_and_masks(root: Path) -> None:
    source = read(root, **KEYS)
    assert {task: (info.kind, info.classes) for task, info in source.schema.items()} == {
        "detection": ("detection", ["person"]),
        "instances": ("instances", ["person"]),
    }
    assert source.notes == []
    for i, (sample, scene) in enumerate(zip(source.samples, scenes(), strict=True), start=1):
        assert (sample.path, sample.split) == (f"PNGImages/FudanPed{i:05d}.png", None)
        boxes, instances = (sample.targets[task].load(SIZE) for task in ("detection", "instances"))
        assert boxes["boxes"].tolist() == instances["boxes"].tolist() == [[*box] for _, box in scene.objects]
        assert sample.targets["instances"].labels == instances["labels"].tolist() == [0] * len(scene.objects)
        assert "masks" not in boxes and instances["masks"].shape == (len(scene.objects), *SIZE)
        for number, mask in enumerate(instances["masks"], start=1):
            assert np.array_equal(mask.numpy(), number_objects(scene) == number)


def test_any_values_and_any_shapes(root: Path) -> None:
    """Gaps between the values, more than 255 of them, an object in two pieces, an outline to ignore."""
    drawn = np.zeros(SIZE, dtype=np.uint16)
    drawn[2:5, 3:7] = drawn[40:44, 50:60] = 7
    drawn[10:20, 10:11] = 4001
    drawn[30, 30] = 255
    path = root / "PedMasks" / "FudanPed00001_mask.png"
    Image.fromarray(drawn).save(path)
    for ignored, boxes in ((None, [[3, 2, 60, 44], [30, 30, 31, 31], [10, 10, 11, 20]]), (255, [[3, 2, 60, 44]])):
        target = read(root, **KEYS, ignore_value=ignored).samples[0].targets["instances"].load(SIZE)
        assert target["boxes"].tolist()[: len(boxes)] == boxes and len(target["masks"]) == 3 - (ignored is not None)
        assert [int(mask.sum()) for mask in target["masks"]] == [52, *([] if ignored else [1]), 10]


def test_masks_beside_their_pictures_and_lists(root: Path) -> None:
    for path in (root / "PedMasks").iterdir():
        path.rename(root / "PNGImages" / path.name)
    for i, scene in enumerate(scenes(), start=1):
        (root / "PNGImages" / f"FudanPed{i:05d}.png").rename(root / "PNGImages" / f"{scene.name}.png")
        mask = root / "PNGImages" / f"FudanPed{i:05d}_mask.png"
        mask.rename(mask.with_name(f"{scene.name}_mask.png"))
    write_lists(root / "splits")
    source = read(root, **KEYS | {"masks": "PNGImages"}, splits="splits")
    assert [(s.path, s.split) for s in source.samples] == [(f"PNGImages/{s.name}.png", s.split) for s in scenes()]
    assert "are the same folder" in bad(root, masks="PNGImages", suffix="")


def test_a_picture_without_a_mask_is_told(root: Path) -> None:
    (root / "PedMasks" / "FudanPed00003_mask.png").unlink()
    source = read(root, **KEYS)
    assert len(source.samples) == 11
    assert source.notes == ["1 image without a mask is left out: PNGImages/FudanPed00003.png"]


def test_what_cannot_be(root: Path) -> None:
    assert bad(root, classes=["person", "dog"]).startswith("data.classes=['person', 'dog']: expected one class")
    assert bad(root, classes=None).endswith("write e.g. data.classes=[person]")
    assert bad(root, masks="Masks").startswith(f"data.masks: the folder {root / 'Masks'} does not exist")
    assert "The mask of FudanPed00001.jpg must be called FudanPed00001.png" in bad(root, suffix="")
    stored = read(root, **KEYS).samples[1].targets["instances"]
    save_values(np.zeros((HEIGHT, WIDTH - 1)), stored.path)
    with pytest.raises(UserError, match=r"FudanPed00002_mask\.png: the mask has 63x48 pixels, its image 64x48 pixels"):
        stored.load(SIZE)
    assert "PedMasks/FudanPed00002_mask.png: 63x48 pixels, its image PNGImages/FudanPed00002.png has" in bad(root)
    stored.path.write_bytes(b"no image")
    assert "PedMasks/FudanPed00002_mask.png" in bad(root)
    stored.path.unlink()
    save_values(np.zeros(SIZE), root / "PedMasks" / "other.png")
    assert bad(root).startswith("1 masks have no image of the same name; add or remove:\n")
    (root / "PedMasks" / "other.png").unlink()
    for path in (root / "PedMasks").iterdir():
        save_values(np.zeros(SIZE), path)
    assert bad(root).startswith("the 11 masks in ")
