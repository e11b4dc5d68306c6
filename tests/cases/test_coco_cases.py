"""COCO files as tools write them: what detection does not need, other types of ids, paths of other machines."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from inputs import write_coco, write_image
from PIL import Image
from running import Outcome

from visiontune.data.readers.coco import read
from visiontune.data.schema import Source
from visiontune.errors import UserError
from visiontune.models.heads.coco_metrics import CocoMetrics

BOX = [5.0, 5.0, 25.0, 25.0]
CELL = {"id": 1, "name": "cell"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images with one box each in a.json; tests write other files beside it."""
    return write_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture
def load(root: Path) -> Callable[..., Source]:
    """`load(change)`: read a copy of a.json that `change(document)` has changed."""

    def run(change: Callable[[dict[str, Any]], Any] = lambda _: None, **arguments: Any) -> Source:
        document = json.loads((root / "a.json").read_text())
        change(document)
        (root / "b.json").write_text(json.dumps(document))
        return read(root, "b.json", **{"tasks": ["detection"]} | arguments)

    return run


def annotations(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Replaces keys of all annotations; None is JSON's null."""
    return lambda document: [annotation.update(changes) for annotation in document["annotations"]] and None


def boxes(source: Source) -> list[list[float]]:
    return [box for sample in source.samples for box in sample.targets["detection"].boxes.tolist()]


def crowds(source: Source) -> list[bool]:
    return [crowd for sample in source.samples for crowd in sample.targets["detection"].crowd]


def notes(source: Source) -> str:
    return "\n".join(source.notes)


@pytest.mark.parametrize(
    ("segmentation", "count"),
    [
        ([[]], 10),
        ([[5, 5, 20, 20]], 10),
        ([[1, 2, 3]], 10),
        ("polygon", 10),
        ({"size": [48, 64]}, 10),
        ([], 0),
        (None, 0),
        ("", 0),
        ({}, 0),
        ({"size": [1_000_000_000, 1_000_000_000], "counts": [10**18]}, 0),
    ],
)
def test_detection_does_not_need_polygons(load: Callable[..., Source], segmentation: Any, count: int) -> None:
    source = load(annotations(segmentation=segmentation))
    assert boxes(source) == [BOX] * 10 and list(source.schema) == ["detection"]
    expected = [
        f"{count} objects have a segmentation without polygon, which detection does not need: b.json annotation"
    ]
    assert [note[: len(expected[0])] for note in source.notes] == expected * bool(count)


def test_instances_need_polygons(load: Callable[..., Source]) -> None:
    with pytest.raises(UserError, match=r"10 of 10 boxes cannot be used(.|\n)*its polygon has 4 numbers"):
        load(annotations(segmentation=[[5, 5, 20, 20]]), tasks=["instances"])
    for outline in ([[], [5, 5, 25, 5, 25, 25]], [5, 5, 25, 5, 25, 25], [[[5, 5], [25, 5], [25, 25]]]):
        source = load(annotations(segmentation=outline), tasks=["instances"])
        assert len(source.samples[0].targets["instances"].segments[0]) == 1, outline
    with pytest.raises(UserError, match=r"b\.json: no object has polygons or a mask\. Write heads=detection"):
        load(annotations(segmentation=[[]]), tasks=["instances"])


@pytest.mark.parametrize("missing", [None, [], ""])
def test_without_a_box_that_of_the_polygons_counts(load: Callable[..., Source], missing: Any) -> None:
    source = load(annotations(bbox=missing, segmentation=[[5, 5, 25, 5, 25, 25, 5, 25], [30, 5, 31, 5, 31, 9]]))
    assert boxes(source) == [[5, 5, 31, 25]] * 10
    assert "10 objects have no bbox: the box around their polygons is used: b.json annotation 0 (0.jpg)" in notes(
        source
    )
    runs = {"size": [48, 64], "counts": [10 * 48, 20 * 48, 34 * 48]}
    assert boxes(load(annotations(bbox=missing, segmentation=runs))) == [[10, 0, 30, 48]] * 10
    with pytest.raises(UserError, match="it has neither bbox nor polygons"):
        load(annotations(bbox=missing))


@pytest.mark.parametrize(
    ("value", "crowd"),
    [("0", False), (0.0, False), (None, False), ("", False), (False, False), ("1", True), (True, True)],
)
def test_crowd_flags(load: Callable[..., Source], value: Any, crowd: bool) -> None:
    source = load(annotations(iscrowd=value))
    assert crowds(source) == [crowd] * 10
    assert ("10 objects are crowds (iscrowd=1): training and metrics ignore them" in source.notes) is crowd


@pytest.mark.parametrize("value", ["yes", 2, -1, [1], "nan", "true"])
def test_a_crowd_flag_that_is_neither_0_nor_1(load: Callable[..., Source], value: Any) -> None:
    with pytest.raises(UserError, match=r"b\.json annotation 0 \(0\.jpg\): iscrowd is .*: expected 0"):
        load(annotations(iscrowd=value))


def test_ids_and_numbers_of_other_types(load: Callable[..., Source]) -> None:
    def change(document: dict[str, Any]) -> None:
        for image in document["images"]:
            image |= {"id": str(image["id"]), "width": "64", "height": None}
        for annotation in document["annotations"]:
            annotation |= {"image_id": float(annotation["image_id"]), "category_id": "1", "iscrowd": 0.0}
            annotation |= {"bbox": ["5", 5.0, "20.0", 20], "keypoints": [1, 2, 2], "rbbox": None, "area": "large"}
        document["categories"][0]["id"] = 1.0

    source = load(change)
    assert boxes(source) == [BOX] * 10 and source.notes == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, 10**30, "wide", True, None, [5]])
def test_numbers_that_are_none(load: Callable[..., Source], value: Any) -> None:
    with pytest.raises(UserError, match=r"10 of 10 boxes cannot be used(.|\n)*b\.json annotation 0 \(0\.jpg\): "):
        load(annotations(bbox=[5, 5, value, 20]))
    assert boxes(load(annotations(area=value))) == [BOX] * 10


def test_the_root_category_of_labelling_tools(load: Callable[..., Source]) -> None:
    root, cell = {"id": 0, "name": "cell", "supercategory": "none"}, {**CELL, "supercategory": "cell"}
    source = load(lambda document: document.update(categories=[cell, root]))
    assert source.schema["detection"].classes == ["cell"] and boxes(source) == [BOX] * 10
    assert source.notes == ["the category 'cell' (id 0) is left out: it groups others and has no objects"]
    ant = {"id": 2, "name": 7, "supercategory": "ant"}  # unused, but no group
    source = load(lambda document: document.update(categories=[ant, {**cell, "supercategory": "cells"}]))
    assert source.schema["detection"].classes == ["cell", "7"] and source.notes == []
    with pytest.raises(UserError, match="two categories have the name 'cell'"):
        load(lambda document: document.update(categories=[{**root, "supercategory": "x"}, {**CELL}]))


def test_images_listed_twice(load: Callable[..., Source]) -> None:
    source = load(lambda document: document["images"].append(dict(document["images"][3])))
    assert len(source.samples) == 10 and boxes(source) == [BOX] * 10
    assert source.notes == ["1 image is listed twice in b.json, and used once"]


@pytest.mark.parametrize(
    "name",
    [
        ".\\{}.jpg",
        "C:\\data\\photos\\{}.jpg",
        "/home/ann/photos/{}.jpg",
        "photos/{}.jpg",
        "https://example.org/photos/{}.jpg?size=large",
        "s3://bucket/photos/{}.jpg",
        "{}.JPG",
    ],
)
def test_paths_of_other_machines(load: Callable[..., Source], name: str) -> None:
    def change(document: dict[str, Any]) -> None:
        for i, image in enumerate(document["images"]):
            image["file_name"] = name.format(i)

    source = load(change)
    assert [sample.path for sample in source.samples] == [f"{i}.jpg" for i in range(10)] and boxes(source) == [BOX] * 10
    moved = [note for note in source.notes if "images have another path than in b.json" in note]
    assert len(moved) == len(source.notes) == (0 if name.startswith(".") else 1)


def test_images_of_the_root_and_composed_names(root: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "Cafe\u0301 1.jpg")
    write_image(tmp_path / "2.jpg")
    write_image(tmp_path / "other" / "2.jpg")
    document = json.loads((root / "a.json").read_text())
    names = ["Café 1.jpg", str(tmp_path / "2.jpg")]
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    text = json.dumps(document | {"images": images, "annotations": document["annotations"][:2]})
    (tmp_path / "a.json").write_bytes(text.encode("utf-16"))
    source = read(tmp_path, "a.json", "photos", tasks=["detection"])
    assert [sample.path for sample in source.samples] == ["2.jpg", "photos/Cafe\u0301 1.jpg"]
    assert len(boxes(source)) == 2 and source.notes == []


def test_sizes_say_which_orientation_fits(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "turned")
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in (3, 4):
        Image.open(root / f"{i}.jpg").save(root / f"{i}.jpg", exif=exif)
    source = read(root, "a.json", tasks=["detection"])
    assert source.notes[0] == (
        "2 images are annotated with the size of data.orientation=ignore, which the boxes probably fit: "
        "3.jpg is 48x64, annotated as 64x48"
    )
    assert "2 images have an EXIF orientation" in source.notes[1] and len(source.notes) == 2
    assert source.samples[3].targets["detection"].size == (64, 48)
    stored = read(root, "a.json", tasks=["detection"], orientation="ignore")
    assert len(stored.notes) == 1 and stored.samples[3].targets["detection"].size == (48, 64)


def test_bad_images_are_left_out_on_request(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "bad")
    (root / "3.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 image under .* cannot be read"):
        read(root, "a.json")
    source = read(root, "a.json", on_bad_image="skip")
    assert len(source.samples) == 9 and ["3.jpg (not an image)" in note for note in source.notes] == [True]


def test_images_outside_the_root_are_noted(load: Callable[..., Source], tmp_path: Path) -> None:
    outside = write_image(tmp_path / "outside.jpg")
    source = load(lambda document: document["images"][0].update(file_name=str(outside)))
    assert f"1 image of b.json is outside data.root: {outside}" in source.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [' + "[" * 100_000, "broken JSON (nested too deeply)"),
        ('{"images": ' + "9" * 5000 + "}", "broken JSON (Exceeds the limit"),
        ("[]", "not a COCO file: expected a list 'images' of objects"),
        ('{"images": [null], "categories": [], "annotations": []}', "not a COCO file: expected a list 'images'"),
        ("\x00\x01\x00", "not a text file, or in an unknown encoding"),
    ],
)
def test_files_that_are_no_coco(root: Path, text: str, message: str) -> None:
    (root / "c.json").write_text(text)
    with pytest.raises(UserError) as error:
        read(root, "c.json")
    assert message in str(error.value) and "c.json" in str(error.value)


def test_some_classes(load: Callable[..., Source]) -> None:
    def change(document: dict[str, Any]) -> None:
        document["categories"] = [{"id": 3, "name": "cat"}, {"id": 1, "name": "cell"}, {"id": 2, "name": "dog"}]
        for annotation in document["annotations"]:
            annotation |= {"category_id": 1 + annotation["id"] % 3, "iscrowd": int(annotation["id"] == 1)}

    source = load(change, include=["cat", "cell"])
    assert source.schema["detection"].classes == ["cell", "cat"]  # as in the file
    assert [sample.targets["detection"].labels for sample in source.samples[:4]] == [[0], [], [1], [0]]
    assert source.notes == ["3 objects of other classes are background (data.include): 3 dog"]
    with pytest.raises(UserError, match=r"data\.include: unknown class 'cow'; the classes are cell, dog, cat; write"):
        load(change, include=["cow"])


def test_the_plan(plan: Callable[..., Outcome], tmp_path: Path) -> None:
    data = ["heads=detection", "data=coco", "data.annotations=a.json"]
    root = write_coco(tmp_path / "box", {"segmentation": [[5, 5, 20, 20]]})
    outcome = plan(*data, f"data.root={root}", "data.include=[cell]")
    assert outcome.code == 0 and "note: 10 objects have a segmentation without polygon" in outcome.out
    root = write_coco(tmp_path / "dense", size=(400, 80))
    document = json.loads((root / "a.json").read_text())
    many = [[10 * (i % 40), 10 * (i // 40), 8, 8] for i in range(300)]
    document["annotations"] = [{"id": i, "image_id": 0, "category_id": 1, "bbox": box} for i, box in enumerate(many)]
    document["annotations"] += [{"image_id": i, "category_id": 1, "bbox": many[0]} for i in range(1, 10)]
    (root / "a.json").write_text(json.dumps(document))
    outcome = plan(*data, f"data.root={root}")
    assert (
        "note: 1 image has more objects than the 100 that heads.detection predicts in an image, up to 300: write "
        "heads.detection.max_detections=300" in outcome.out.splitlines()
    )
    assert "note" not in plan(*data, f"data.root={root}", "heads.detection.max_detections=300").out


def test_metrics_count_as_many_objects_as_the_head_predicts() -> None:
    grid = torch.tensor([[10 * (i % 40), 10 * (i // 40), 10 * (i % 40) + 8, 10 * (i // 40) + 8] for i in range(300)])
    labels, box = torch.zeros(300, dtype=torch.int64), grid.float()
    target = {"boxes": box, "labels": labels, "crowd": torch.zeros(300, dtype=torch.bool)}
    prediction = {"boxes": box, "labels": labels, "scores": torch.linspace(1, 0.5, 300)}
    values = {}
    for most in (50, 100, 300):
        metrics = CocoMetrics(["cell"], max_detections=most)
        metrics.update([prediction], [target])
        values[most] = metrics.compute()
    assert float(values[300]["map"]) == 1 and float(values[300]["mar_300"]) == 1 and "mar_100" not in values[300]
    assert float(values[100]["map"]) == float(values[50]["map"]) < 0.35 and "mar_100" in values[50]
