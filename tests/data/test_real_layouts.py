"""Sets that users fetch, as the experiments of their names read them."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from miniatures import HEIGHT, WIDTH, Scene, scenes
from real_layouts import LAYOUTS, NAMES, YEAR, trimap, write_pets, write_voc2012
from torchvision import datasets

from visiontune.config.compose import config_dir
from visiontune.data.readers import coco, torchvision, voc
from visiontune.data.readers.voc import CHALLENGE
from visiontune.data.schema import Source
from visiontune.data.targets import IGNORE
from visiontune.errors import UserError

SIZE = (HEIGHT, WIDTH)


def keys(experiment: str, *names: str) -> dict[str, Any]:
    """What an experiment's file says of the data."""
    said = yaml.safe_load((config_dir() / "experiment" / f"{experiment}.yaml").read_text())["data"]
    return {name: said[name] for name in names}


def boxes_and_names(source: Source, path: str, task: str = "detection") -> list[tuple[str, tuple[int, ...]]]:
    target = next(sample for sample in source.samples if sample.path == path).targets[task].load(SIZE)
    labels = [source.schema[task].classes[label] for label in target["labels"]]
    return list(zip(labels, map(tuple, target["boxes"].int().tolist()), strict=True))


def objects_of(scene: Scene) -> list[tuple[str, tuple[int, ...]]]:
    return [(NAMES[name], box) for name, box in scene.objects]


def test_pets_have_a_breed_and_a_trimap(tmp_path: Path) -> None:
    source = torchvision.read(write_pets(tmp_path), "OxfordIIITPet", download=False)
    assert source.schema["classification"].classes == ["Abyssinian", "American Bulldog"]
    assert source.schema["segmentation"].classes == ["pet", "background", "border"]
    assert Counter(sample.split for sample in source.samples) == {"train": 10, "test": 2}
    for i, scene in enumerate(scenes()):
        (sample,) = [sample for sample in source.samples if sample.path.endswith(f"_{i + 1}.jpg")]
        assert sample.targets["classification"] == i % 2
        assert sample.targets["segmentation"].labels == ([0, 1, 2] if scene.objects else [1])
        assert np.array_equal(sample.targets["segmentation"].load(SIZE).numpy(), trimap(scene) - 1)


def test_a_trimap_that_is_missing(tmp_path: Path) -> None:
    (write_pets(tmp_path) / "oxford-iiit-pet/annotations/trimaps/american_bulldog_4.png").unlink()
    with pytest.raises(
        UserError,
        match=r"1 image under .* cannot be read; repair or remove, or write data.on_bad_image=skip:"
        r"\n.*trimaps/american_bulldog_4\.png",
    ):
        torchvision.read(tmp_path, "OxfordIIITPet", download=False)


def test_voc_detection(tmp_path: Path) -> None:
    chosen = keys("voc_detection", "download", "masks", "classes")
    source = voc.read(write_voc2012(tmp_path), **chosen)
    assert source.root == tmp_path / YEAR and list(source.schema) == ["detection"]
    assert source.schema["detection"].classes == list(CHALLENGE)
    assert Counter(sample.split for sample in source.samples) == {"train": 8, "val": 4}
    for i, scene in enumerate(scenes()):
        assert boxes_and_names(source, f"JPEGImages/2008_{i:06d}.jpg") == objects_of(scene)
    assert voc.read(tmp_path / YEAR, **chosen).root == tmp_path / YEAR  # the folder itself is as good
    assert voc.read(tmp_path / YEAR, **chosen | {"download": None}).root == tmp_path / YEAR


def test_voc_segmentation(tmp_path: Path) -> None:
    source = voc.read(
        write_voc2012(tmp_path), **keys("voc_segmentation", "download", "annotations", "splits", "classes")
    )
    assert list(source.schema) == ["segmentation"]
    assert source.schema["segmentation"].classes == ["background", *CHALLENGE]
    assert Counter(sample.split for sample in source.samples) == {"train": 4, "val": 2}
    truth = source.samples[1].targets["segmentation"].load(SIZE).numpy()
    (_, (x1, y1, x2, _)), *_ = scenes()[2].objects
    assert source.samples[1].path == "JPEGImages/2008_000002.jpg" and (truth[y1, x1:x2] == IGNORE).all()
    assert truth[y1 + 1, x1] == 1 + CHALLENGE.index(objects_of(scenes()[2])[0][0]) and truth[0, 0] == 0


def test_voc_is_fetched_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fetch(root: Path, year: str, image_set: str, download: bool) -> None:
        calls.append((root, year, download))
        write_voc2012(root)

    monkeypatch.setattr(datasets, "VOCDetection", fetch)
    root = tmp_path / "new" / "data"
    sources = [voc.read(root, masks=None, download=2012) for _ in range(2)]
    assert calls == [(root, "2012", True)] and [len(source.samples) for source in sources] == [12, 12]


def test_voc_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "VOCDetection", offline)
    with pytest.raises(UserError, match=r"VOC2012 does not exist, .*\(no route to host\)\. Unpack https://.*\.tar in "):
        voc.read(tmp_path, download="2012")
    with pytest.raises(UserError, match=r"data\.download=2020: write a year of the challenge, 2007, .*2012$"):
        voc.read(tmp_path, download=2020)
    with pytest.raises(UserError, match=r"data\.root is not set: write the folder of VOCdevkit"):
        voc.read(None, download="2012")


@pytest.mark.parametrize("name", ["coco_detection", "coco_instances"])
def test_coco(name: str, tmp_path: Path) -> None:
    source = coco.read(LAYOUTS[name](tmp_path), **keys(name, "annotations", "images", "on_bad_box"))
    task = name.split("_")[1]
    assert source.schema[task].classes == ["person", "dog", "toothbrush"]
    assert Counter(sample.split for sample in source.samples) == {"train": 8, "val": 4}
    for i, scene in enumerate(scenes()):
        folder = "train2017" if scene.split == "train" else "val2017"
        crowd = [("person", (0, 0, 4, HEIGHT))] if i == 7 else []
        assert boxes_and_names(source, f"{folder}/{9 + 16 * i:012d}.jpg", task) == objects_of(scene) + crowd
    assert len(source.notes) == 2 and source.notes[0].startswith("1 bad box is left out (data.on_bad_box=clip)")
    assert source.notes[1] == "1 objects are crowds (iscrowd=1): training and metrics ignore them"
