"""Miniature copies of public datasets, with the folders, names and ids of the originals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from miniatures import CLASSES, HEIGHT, WIDTH, Scene, save_palette, scenes
from PIL import Image

YEAR = Path("VOCdevkit/VOC2012")
NAMES = dict(zip(CLASSES, ("person", "dog"), strict=True))  # classes that VOC and COCO have
VOC_VALUES = (0, 15, 12)  # of background, person and dog in VOC's masks
COCO_IDS = {"person": 1, "dog": 18, "toothbrush": 90}
BREEDS = ("Abyssinian", "american_bulldog")


def save_values(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def write_pets(root: Path) -> Path:
    """Oxford-IIIT Pet: an image has one breed; in a trimap 1 is the animal, 2 the background, 3 the border."""
    base = root / "oxford-iiit-pet"
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    for i, scene in enumerate(scenes()):
        name = f"{BREEDS[i % 2]}_{i + 1}"
        scene.save(base / "images" / f"{name}.jpg")
        save_values(trimap(scene), base / "annotations" / "trimaps" / f"{name}.png")
        lists["test" if scene.split == "test" else "trainval"].append(f"{name} {i % 2 + 1} {i % 2 + 1} 1")
    (base / "annotations" / "trimaps" / f"._{BREEDS[0]}_1.png").write_bytes(b"Mac OS X")  # the archive has these
    for part, lines in lists.items():
        (base / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")
    return root


def trimap(scene: Scene) -> np.ndarray:
    values = np.full((HEIGHT, WIDTH), 2)
    for _, (x1, y1, x2, y2) in scene.objects:
        values[y1:y2, x1:x2] = 3
        values[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2] = 1
    return values


def write_voc2012(root: Path) -> Path:
    """VOCdevkit/VOC2012: lists for train and val only; every second image has a mask, with white outlines."""
    base = root / YEAR
    lists: dict[str, list[str]] = {}
    for i, scene in enumerate(scenes()):
        name, split = f"2008_{i:06d}", "train" if scene.split == "train" else "val"
        scene.save(base / "JPEGImages" / f"{name}.jpg")
        page = base / "Annotations" / f"{name}.xml"
        page.parent.mkdir(exist_ok=True)
        page.write_text(voc_page(name, scene))
        lists.setdefault(f"Main/{split}", []).append(name)
        for label, class_name in enumerate(NAMES.values(), start=1):
            lists.setdefault(f"Main/{class_name}_{split}", []).append(f"{name} {1 if label in scene.labels else -1:2d}")
        if i % 2 == 0:
            values = np.array(VOC_VALUES, dtype=np.uint8)[scene.labels]
            for _, (x1, y1, x2, _) in scene.objects:
                values[y1, x1:x2] = 255
            save_palette(values, base / "SegmentationClass" / f"{name}.png")
            lists.setdefault(f"Segmentation/{split}", []).append(name)
    for part, lines in lists.items():
        path = base / "ImageSets" / f"{part}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    return root


def voc_page(name: str, scene: Scene) -> str:
    """A person has a head: a part with a name and a box."""
    objects = ""
    for label, (x1, y1, x2, y2) in scene.objects:
        box = f"<bndbox><xmax>{x2}</xmax><xmin>{x1}</xmin><ymax>{y2}</ymax><ymin>{y1}</ymin></bndbox>"
        part = f"<part><name>head</name>{box}</part>" if NAMES[label] == "person" else ""
        objects += (
            f"\n\t<object>\n\t\t<name>{NAMES[label]}</name>\n\t\t{box}\n\t\t<difficult>0</difficult>\n\t\t"
            f"<occluded>0</occluded>\n\t\t<pose>Frontal</pose>\n\t\t<truncated>1</truncated>\n\t\t{part}\n\t</object>"
        )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return (
        f"<annotation>\n\t<folder>VOC2012</folder>\n\t<filename>{name}.jpg</filename>{objects}\n\t"
        f"<segmented>0</segmented>\n\t{size}\n\t<source><database>The VOC2008 Database</database></source>\n"
        f"</annotation>\n"
    )


def write_coco2017(root: Path) -> Path:
    """annotations/instances_SPLIT2017.json; train has a crowd with run-length masks, and a box without height."""
    for split in ("train", "val"):
        document: dict[str, Any] = {"info": {"year": 2017}, "licenses": [], "images": [], "annotations": []}
        document["categories"] = [{"supercategory": "x", "id": i, "name": name} for name, i in COCO_IDS.items()]
        for i, scene in enumerate(scenes()):
            if (scene.split == "train") is (split == "train"):
                file = f"{9 + 16 * i:012d}.jpg"
                scene.save(root / f"{split}2017" / file)
                document["images"].append({"id": 9 + 16 * i, "file_name": file, "height": HEIGHT, "width": WIDTH})
                for name, (x1, y1, x2, y2) in scene.objects:
                    polygon = [x1, y1, x2, y1, x2, y2, x1, y2]
                    add_annotation(document, COCO_IDS[NAMES[name]], [x1, y1, x2 - x1, y2 - y1], [polygon])
        if split == "train":
            crowd = {"size": [HEIGHT, WIDTH], "counts": [0, 4 * HEIGHT, (WIDTH - 4) * HEIGHT]}
            add_annotation(document, 1, [0, 0, 4, HEIGHT], crowd, iscrowd=1)
            add_annotation(document, 18, [9.5, 30.25, 1.25, 0], [[9.5, 30.25, 10.75, 30.25, 10.75, 30.25]])
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(document))
    return root


def add_annotation(document: dict[str, Any], category: int, box: list[float], segment: Any, iscrowd: int = 0) -> None:
    """Add an object to the last image of the document."""
    annotations = document["annotations"]
    annotation = {"id": 100 + 7 * len(annotations), "image_id": document["images"][-1]["id"], "iscrowd": iscrowd}
    annotation |= {"category_id": category, "bbox": box, "area": box[2] * box[3], "segmentation": segment}
    annotations.append(annotation)


def write_pennfudan(root: Path) -> Path:
    """PennFudanPed: the objects of an image are 1, 2, ... in its mask."""
    base = root / "PennFudanPed"
    for i, scene in enumerate(scenes(), start=1):
        scene.save(base / "PNGImages" / f"FudanPed{i:05d}.png")
        save_values(number_objects(scene), base / "PedMasks" / f"FudanPed{i:05d}_mask.png")
    for name in ("Annotation/FudanPed00001.txt", "added-object-list.txt", "readme.txt"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("# Compatible with PASCAL Annotation Version 1.00\n")
    return base


def number_objects(scene: Scene) -> np.ndarray:
    """(H, W): 0 background, i + 1 the i-th object."""
    values = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for i, (_, (x1, y1, x2, y2)) in enumerate(scene.objects, start=1):
        values[y1:y2, x1:x2] = i
    return values


# Experiment -> the function that writes its set into a folder and returns its data.root.
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "pets_multitask": write_pets,
    "voc_detection": write_voc2012,
    "voc_segmentation": write_voc2012,
    "coco_detection": write_coco2017,
    "coco_instances": write_coco2017,
    "pennfudan_instances": write_pennfudan,
}
