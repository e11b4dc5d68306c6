"""Miniature sets in the layouts that users have: the same twelve images in each format.

An image has up to two rectangles, one in its left half and one in its right half; the last image has none.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ["brick", "tile"]
COLOURS = {"brick": (200, 70, 50), "tile": (60, 80, 210)}
HEIGHT, WIDTH = 48, 64


@dataclass(frozen=True)
class Scene:
    name: str
    split: str
    objects: list[tuple[str, tuple[int, int, int, int]]]  # class, and x1, y1, x2, y2

    @property
    def labels(self) -> np.ndarray:
        """(H, W): 0 background, 1 brick, 2 tile."""
        labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        for name, (x1, y1, x2, y2) in self.objects:
            labels[y1:y2, x1:x2] = 1 + CLASSES.index(name)
        return labels

    def save(self, path: Path) -> None:
        rng = np.random.default_rng(sum(map(ord, self.name)))
        pixels = rng.integers(90, 130, (HEIGHT, WIDTH, 3))
        for label, name in enumerate(CLASSES, start=1):
            pixels[self.labels == label] = COLOURS[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels + rng.integers(0, 20, pixels.shape)).astype(np.uint8)).save(path)


def scenes() -> list[Scene]:
    """Eight to train, two each to validate and test."""
    rng = np.random.default_rng(0)
    result = []
    for i in range(12):
        objects = []
        for half in range(2 if i % 3 else 1) if i < 11 else ():
            x, y = half * WIDTH // 2 + int(rng.integers(1, 8)), int(rng.integers(1, 20))
            objects.append(
                (CLASSES[(i + half) % 2], (x, y, x + int(rng.integers(10, 20)), y + int(rng.integers(10, 25))))
            )
        result.append(Scene(f"p{i:02d}", "train" if i < 8 else "val" if i < 10 else "test", objects))
    return result


def write_lists(folder: Path) -> None:
    """`{train,val,test}.txt` with stems."""
    folder.mkdir(parents=True)
    for split in ("train", "val", "test"):
        names = [scene.name for scene in scenes() if scene.split == split]
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")


def write_coco(root: Path, segments: bool = True) -> Path:
    """`images/SPLIT/*.jpg` and `SPLIT.json`; the ids have gaps and are not in the order of names."""
    number = 100
    for split in ("train", "val", "test"):
        document: dict[str, list[Any]] = {"images": [], "annotations": []}
        document["categories"] = [{"id": 7, "name": "tile"}, {"id": 3, "name": "brick"}]
        for scene in [scene for scene in scenes() if scene.split == split]:
            scene.save(root / "images" / split / f"{scene.name}.jpg")
            image = {"id": number, "file_name": f"{scene.name}.jpg", "height": HEIGHT, "width": WIDTH}
            document["images"].append(image)
            for name, (x1, y1, x2, y2) in scene.objects:
                number += 1
                annotation = {
                    "id": number,
                    "image_id": image["id"],
                    "category_id": {"brick": 3, "tile": 7}[name],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
                if segments:
                    annotation["segmentation"] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
                document["annotations"].append(annotation)
            number += 1
        (root / f"{split}.json").write_text(json.dumps(document))
    return root


def change_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def write_voc(root: Path, masks: bool = True) -> Path:
    """`JPEGImages`, `Annotations`, `SegmentationClass` (palette, white borders to ignore), `ImageSets/Main`."""
    for scene in scenes():
        scene.save(root / "JPEGImages" / f"{scene.name}.jpg")
        objects = "".join(
            f"\n\t<object>\n\t\t<name>{name}</name>\n\t\t<difficult>0</difficult>\n\t\t<bndbox><xmin>{x1}</xmin>"
            f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>\n\t</object>"
            for name, (x1, y1, x2, y2) in scene.objects
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        page = f"<annotation>\n\t<filename>{scene.name}.jpg</filename>\n\t{size}{objects}\n</annotation>\n"
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{scene.name}.xml").write_text(page)
        if masks:
            labels = scene.labels
            labels[:, 0] = 255
            save_palette(labels, root / "SegmentationClass" / f"{scene.name}.png")
    write_lists(root / "ImageSets" / "Main")
    return root


def save_palette(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    image.putpalette([part for i in range(256) for part in ((i * 37) % 256, (i * 91) % 256, i)])
    image.save(path)


def write_yolo(root: Path, polygons: bool = False) -> Path:
    """`images/SPLIT/*.jpg`, `labels/SPLIT/*.txt` and `data.yaml`; the last image's label file is empty."""
    for scene in scenes():
        scene.save(root / "images" / scene.split / f"{scene.name}.jpg")
        lines = []
        for name, (x1, y1, x2, y2) in scene.objects:
            corners = [x1, y1, x2, y1, x2, y2, x1, y2] if polygons else [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
            shares = [value / (HEIGHT if i % 2 else WIDTH) for i, value in enumerate(corners)]
            lines.append(f"{CLASSES.index(name)} " + " ".join(f"{share:.6f}" for share in shares))
        labels = root / "labels" / scene.split / f"{scene.name}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("".join(f"{line}\n" for line in lines))
    (root / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\ntest: images/test\nnames:\n  0: brick\n  1: tile\n"
    )
    return root


def write_masks(root: Path) -> Path:
    """`images/*.jpg`, `masks/*.png` (grey values 0, 1, 2) and `splits/{train,val,test}.txt`."""
    for scene in scenes():
        scene.save(root / "images" / f"{scene.name}.jpg")
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(scene.labels).save(root / "masks" / f"{scene.name}.png")
    write_lists(root / "splits")
    return root


def write_csv(root: Path) -> Path:
    """`images/*.jpg` and `table.csv`: what is in an image as a class, as 0 and 1, and as numbers."""
    rows = []
    for scene in scenes():
        scene.save(root / "images" / f"{scene.name}.jpg")
        names = [name for name, _ in scene.objects]
        area = sum((x2 - x1) * (y2 - y1) for _, (x1, y1, x2, y2) in scene.objects)
        rows.append(
            {
                "path": f"images/{scene.name}.jpg",
                "split": scene.split,
                "group": f"g{int(scene.name[1:]) // 2}",
                "kind": (names or ["brick"])[0],
                **{name: int(name in names) for name in CLASSES},
                "count": len(names),
                "area": area / 100,
            }
        )
    with (root / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


# Option of `data` -> the function that writes the set, and the overrides that read it.
FORMATS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "coco": (
        write_coco,
        [
            "heads=detection",
            "data.images={train: images/train, val: images/val, test: images/test}",
            "data.annotations={train: train.json, val: val.json, test: test.json}",
        ],
    ),
    "voc": (write_voc, ["heads=detection"]),
    "yolo": (write_yolo, ["heads=detection"]),
    "masks": (write_masks, ["heads=segmentation", "data.classes=[ground,brick,tile]", "data.splits=splits"]),
    "csv": (write_csv, ["heads=regression", "data.table=table.csv", "data.targets=[area]"]),
}
