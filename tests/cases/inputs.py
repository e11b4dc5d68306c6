"""Small inputs as people have them, drawn by code. Every image is different noise, so that no two are copies."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_image(path: Path, size: tuple[int, int] = (64, 48), seed: int = 0) -> Path:
    """Write noise of `size` (width, height) in the format of the suffix; it depends on the names of file and folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *os.fsencode(path.name), *os.fsencode(path.parent.name)])
    Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def write_folders(root: Path, classes: Sequence[str] = ("cat", "dog"), count: int = 12, suffix: str = ".png") -> Path:
    """`CLASS/00.png` to `CLASS/11.png` for each class."""
    for name in classes:
        for i in range(count):
            write_image(root / name / f"{i:02d}{suffix}")
    return root


def write_yolo(root: Path, yaml: str, label: str = "0 0.5 0.5 0.4 0.4\n", count: int = 6) -> Path:
    """`count` images in train and in val, all with the same label file; `yaml` follows `train:` and `val:`."""
    for split in ("train", "val"):
        for i in range(count):
            write_image(root / "images" / split / f"{split}{i}.jpg")
            file = root / "labels" / split / f"{split}{i}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(label)
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\n{yaml}")
    return root


def write_coco(
    root: Path,
    changes: Mapping[str, Any] | None = None,
    categories: Sequence[Mapping[str, Any]] = ({"id": 1, "name": "cell"},),
    count: int = 10,
    size: tuple[int, int] = (64, 48),
) -> Path:
    """`a.json` with one box per image; `changes` replace keys of each annotation, and None removes a key."""
    images, annotations = [], []
    for i in range(count):
        write_image(root / f"{i}.jpg", size)
        images.append({"id": i, "file_name": f"{i}.jpg", "width": size[0], "height": size[1]})
        annotation = {"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
        annotation |= changes or {}
        annotations.append({key: value for key, value in annotation.items() if value is not None})
    document = {"images": images, "categories": list(categories), "annotations": annotations}
    (root / "a.json").write_text(json.dumps(document))
    return root


def write_masks(root: Path, values: Sequence[int] = (0, 1), count: int = 10) -> Path:
    """`images/N.jpg` and `masks/N.png` with stripes of `values`."""
    for i in range(count):
        write_image(root / "images" / f"{i}.jpg")
        (root / "masks").mkdir(exist_ok=True)
        codes = np.array(values, dtype=np.uint8)[np.arange(64 * 48).reshape(48, 64) // 7 % len(values)]
        Image.fromarray(codes).save(root / "masks" / f"{i}.png")
    return root
