"""COCO's format: boxes, segments and label maps, and everything that can be wrong with the file."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from miniatures import CLASSES, HEIGHT, WIDTH, change_json, scenes, write_coco, write_lists
from PIL import Image

from visiontune.data import VisionData
from visiontune.data.readers.coco import read
from visiontune.errors import UserError

SPLITS = ("train", "val", "test")
FILES = {split: f"{split}.json" for split in SPLITS}
FOLDERS = {split: f"images/{split}" for split in SPLITS}
Document = dict[str, Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "set")


def bad(root: Path, **arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        read(root, **{"annotations": FILES, "images": FOLDERS} | arguments)
    return str(error.value)


def test_boxes_masks_and_names(root: Path) -> None:
    source = read(root, FILES, FOLDERS)
    assert {task: (info.kind, info.classes) for task, info in source.schema.items()} == {
        "detection": ("detection", CLASSES),  # by id, as the ids are sorted: 3 brick, 7 tile
        "instances": ("instances", CLASSES),
    }
    assert source.notes == [] and [sample.split for sample in source.samples][-2:] == ["val", "val"]
    by_path = {sample.path: sample for sample in source.samples}
    for scene in scenes():
        sample = by_path[f"images/{scene.split}/{scene.name}.jpg"]
        assert sample.split == scene.split
        target = sample.targets["instances"].load((HEIGHT, WIDTH))
        assert target["boxes"].tolist() == [list(map(float, box)) for _, box in scene.objects]
        assert target["labels"].tolist() == [CLASSES.index(name) for name, _ in scene.objects]
        labels = torch.from_numpy(scene.labels)
        for label, mask in zip(target["labels"], target["masks"], strict=True):
            assert torch.equal(mask.bool(), labels == label + 1)
        assert sample.targets["detection"].load((HEIGHT, WIDTH))["boxes"].tolist() == target["boxes"].tolist()


def test_one_file_with_lists_of_splits(root: Path) -> None:
    write_lists(root / "splits")
    every = {"images": [], "annotations": []}

    def gather(document: Document) -> None:
        for image in document["images"]:
            image["file_name"] = f"{split}/{image['file_name']}"
        every["images"] += document["images"]
        every["annotations"] += document["annotations"]

    for split in SPLITS:
        change_json(root / f"{split}.json", gather)
    change_json(root / "train.json", lambda document: document.update(every))
    source = read(root, "train.json", "images", splits="splits")
    assert Counter(sample.split for sample in source.samples) == {"train": 8, "val": 2, "test": 2}
    assert {sample.split for sample in read(root, "train.json", "images").samples} == {None}


def test_without_segments_there_is_detection_alone(tmp_path: Path) -> None:
    source = read(write_coco(tmp_path / "set", segments=False), FILES, FOLDERS)
    assert list(source.schema) == ["detection"] and {len(sample.targets) for sample in source.samples} == {1}


def test_a_picture_with_one_object_without_segment_has_no_instances(root: Path) -> None:
    change_json(root / "train.json", lambda document: document["annotations"][0].update(segmentation=[]))
    source = read(root, FILES, FOLDERS)
    assert [list(sample.targets) for sample in source.samples].count(["detection"]) == 1
    assert source.notes == ["1 image has objects without polygon or mask, and so no instances target"]


def test_crowds_and_run_lengths(root: Path) -> None:
    counts = [10 * HEIGHT, 20 * HEIGHT, (WIDTH - 30) * HEIGHT]  # columns 10 to 29
    crowd = {"iscrowd": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}, "bbox": [10, 0, 20, HEIGHT]}
    change_json(root / "val.json", lambda document: document["annotations"][0].update(crowd))
    source = read(root, FILES, FOLDERS)
    target = {sample.path: sample for sample in source.samples}["images/val/p08.jpg"].targets["instances"]
    loaded = target.load((HEIGHT, WIDTH))
    assert loaded["crowd"].tolist() == [True, False]
    columns = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    columns[:, 10:30] = True
    assert torch.equal(loaded["masks"][0].bool(), columns)


def test_areas_are_those_of_the_file(root: Path) -> None:
    change_json(root / "train.json", lambda document: document["annotations"][0].update(area=123.5))
    change_json(root / "train.json", lambda document: document["annotations"][1].update(area="large"))
    for sample in read(root, FILES, FOLDERS).samples:
        for task in ("detection", "instances"):
            target = sample.targets[task].load((HEIGHT, WIDTH))
            if sample.path == "images/train/p00.jpg":
                assert target["area"][0] == 123.5 and len(target["area"]) == len(target["boxes"])
                assert [set(target) - {"area"}] == [{"boxes", "labels", "crowd"} | set(target) & {"masks"}]


def test_sizes_in_the_file_do_not_count(root: Path) -> None:
    def other(document: Document) -> None:
        document["images"][0].update(width=HEIGHT, height=WIDTH)
        document["images"][1].update(width=0, height=0)
        del document["images"][2]["width"]

    change_json(root / "train.json", other)
    assert read(root, FILES, FOLDERS).notes == [
        "1 image has another size than annotated; the size of the file is used: images/train/p00.jpg is "
        "64x48, annotated as 48x64"
    ]


def test_a_turned_picture_is_measured_as_it_is_seen(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(root / "images/val/p08.jpg", exif=exif)
    target = {sample.path: sample for sample in read(root, FILES, FOLDERS).samples}["images/val/p08.jpg"].targets
    assert target["detection"].load((HEIGHT, WIDTH))["boxes"].canvas_size == (HEIGHT, WIDTH)


def test_pictures_that_no_file_names_are_said(root: Path) -> None:
    Image.new("RGB", (8, 8)).save(root / "images/train/extra.jpg")
    notes = read(root, FILES, FOLDERS).notes
    assert notes == ["1 image is in no annotation file, and left out: images/train/extra.jpg"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["annotations"][0].update(category_id=9),
            "train.json annotation 101 (images/train/p00.jpg): unknown category 9, known are 3, 7",
        ),
        (
            lambda d: d["annotations"][0].update(image_id=5000),
            "train.json: annotation 101 is for image 5000, which the file does not list",
        ),
        (
            lambda d: d["annotations"][0].update(category_id=[3]),
            "train.json annotation 101 (images/train/p00.jpg): unknown category [3], known are 3, 7",
        ),
        (
            lambda d: d["annotations"][0].update(image_id=[100]),
            "train.json: annotation 101 is for image [100], which the file does not list",
        ),
        (lambda d: d["images"][0].update(id=[1]), "train.json: an image needs id and file_name, got {{'id': [1]"),
        (
            lambda d: d["images"][1].update(id=100),
            "train.json: two images have the id 100: images/train/p00.jpg and p01.jpg",
        ),
        (
            lambda d: d["images"][1].update(file_name="p00.jpg"),
            "train.json: the images 100, 102 are the same file, images/train/p00.jpg",
        ),
        (
            lambda d: d["images"][1].update(file_name="gone.jpg"),
            "1 of 8 images in train.json do not exist under {root}/images/train; is data.images correct?\n"
            "  image 102: images/train/gone.jpg",
        ),
        (lambda d: d["images"][0].pop("file_name"), "train.json: an image needs id and file_name, got {{'id': 100"),
        (
            lambda d: d["categories"][0].update(name="roof"),
            "val.json and train.json have different categories, such as 7: 'roof'. Write the same list in all files.",
        ),
        (lambda d: d["categories"].pop(), "val.json and train.json have different categories, such as 3: 'brick'"),
        (lambda d: d["categories"][0].update(id=3), "train.json: two categories have the id 3"),
        (lambda d: d["categories"][0].update(name="brick"), "train.json: two categories have the name 'brick'"),
        (lambda d: d["categories"][0].pop("name"), "train.json: category (7, None) needs an integer id and a name"),
        (lambda d: d.pop("annotations"), "train.json: not a COCO file: expected a list 'annotations' of objects"),
    ],
)
def test_what_can_be_wrong(root: Path, change: Callable[[Document], Any], message: str) -> None:
    change_json(root / "train.json", change)
    assert bad(root).startswith(message.format(root=root))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [60, 5, 20, 5]}, "box 60, 5, 80, 10 leaves its image of 64x48 pixels"),
        ({"bbox": [6, 5, 0, 5]}, "box 6, 5, 6, 10 has no area"),
        ({"bbox": [6, 5, float("nan"), 5]}, "box 6, 5, nan, 10 is not made of numbers"),
        ({"bbox": [6, 5]}, "bbox=[6, 5] is not [x, y, width, height]"),
        ({"bbox": None, "segmentation": []}, "it has neither bbox nor polygons"),
        ({"segmentation": [[1, 2, 3, 4]]}, "its polygon has 4 numbers; three points or more are x, y, x, y, x, y, ..."),
        (
            {"segmentation": {"size": [9, 9], "counts": [81]}},
            "its run lengths are of size [9, 9], the image's is [48, 64] (H, W)",
        ),
        (
            {"segmentation": {"size": 5, "counts": [81]}},
            "its run lengths are of size 5, the image's is [48, 64] (H, W)",
        ),
        ({"segmentation": {"size": [48, 64], "counts": [48 * 64]}}, "its run lengths are empty"),
        (
            {"segmentation": [[700, 700, 800, 700, 800, 800]]},
            "its polygons are outside its box, or far outside its image",
        ),
        (
            {"segmentation": [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]},
            "its polygons are outside its box, or far outside its image",
        ),
        ({"segmentation": [[5, 5, 1e12, 5, 9, 9]]}, "its polygons are outside its box, or far outside its image"),
    ],
)
def test_objects_that_cannot_be(root: Path, change: dict[str, Any], message: str) -> None:
    change_json(root / "train.json", lambda document: document["annotations"][1].update(change))
    assert bad(root) == (
        "1 of 18 boxes cannot be used. Repair them, or write data.on_bad_box=drop (leave them out) or "
        "data.on_bad_box=clip (cut them at their image's edge):\n  train.json annotation 103 (images/train/p01.jpg): "
        + message
    )
    source = read(root, FILES, FOLDERS, on_bad_box="drop")
    assert source.notes == [
        "1 bad box is left out (data.on_bad_box=drop): train.json annotation 103 (images/train/p01.jpg)"
    ]
    assert sum(len(sample.targets["instances"].labels) for sample in source.samples) == 18 - 1


def test_broken_json_is_named_with_its_line(root: Path) -> None:
    (root / "val.json").write_text('{\n"images": [\n{"id" 1}]}')
    assert bad(root) == "val.json:3: broken JSON (Expecting ':' delimiter, column 7)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"annotations": None}, "data.annotations is not set: write data.annotations=NAME, or data.annotations='{{"),
        (
            {"annotations": "none.json", "images": "images"},
            "data.annotations: the file {root}/none.json does not exist",
        ),
        ({"annotations": {"train": "train.json", "dev": "val.json"}}, "data.annotations: unknown split 'dev'"),
        ({"images": {"train": "images/train"}}, "data.images={{'train': 'images/train'}} and data.annotations={{"),
        ({"images": "photos"}, "data.images: the folder {root}/photos does not exist"),
        ({"on_bad_box": "skip"}, "data.on_bad_box=skip: write one of error, clip, drop"),
    ],
)
def test_keys_that_do_not_fit(root: Path, arguments: dict[str, Any], message: str) -> None:
    assert bad(root, **arguments).startswith(message.format(root=root))


def test_a_picture_of_two_splits(root: Path) -> None:
    change_json(root / "val.json", lambda document: document["images"][0].update(file_name="../train/p00.jpg"))
    assert bad(root) == "images/train/p00.jpg is in the annotations of both train and val. A sample has one split."


def test_from_the_config(root: Path, make: Callable[..., VisionData]) -> None:
    files, folders = (
        "{" + ", ".join(f"{key}: {value}" for key, value in which.items()) + "}" for which in (FILES, FOLDERS)
    )
    data = make("data=coco", f"data.root={root}", f"data.annotations={files}", f"data.images={folders}")
    assert data.counts()["train"]["detection"] == data.counts()["train"]["instances"] == {"brick": 7, "tile": 6}
    assert data.counts()["test"]["detection"] == {"brick": 1, "tile": 1} and data.notes == []
