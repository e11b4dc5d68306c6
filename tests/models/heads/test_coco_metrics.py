"""COCO's numbers against pycocotools."""

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, distributed, multiprocessing

from visiontune.data.targets import objects
from visiontune.models.heads.coco_metrics import NUMBERS, CocoMetrics
from visiontune.models.heads.metrics import name_scalars

CLASSES = ["ant", "bee", "cat", "dog"]  # no dog is in the truth
SIZE = (240, 320)
BOX = ("bbox",)
BOTH = ("bbox", "segm")


def ellipses(boxes: Tensor) -> Tensor:
    """Masks ``(N, H, W)`` that fill their boxes."""
    rows, columns = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    x1, y1, x2, y2 = boxes.float()[:, :, None, None].unbind(1)
    return ((columns - (x1 + x2) / 2) / ((x2 - x1) / 2)) ** 2 + ((rows - (y1 + y2) / 2) / ((y2 - y1) / 2)) ** 2 <= 1


def scenes() -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Predictions and targets of 12 images: all sizes, crowds, duplicates, wrong labels, one side or both empty."""
    random = np.random.default_rng(3)
    predictions, targets = [], []
    for index in range(12):
        count = 0 if index in (2, 5) else int(random.integers(1, 8))
        sides = random.choice([12, 25, 60, 120, 200], (count, 2)) * random.uniform(0.8, 1.2, (count, 2))
        corner = random.uniform(0, 1, (count, 2)) * (np.array([320, 240]) - sides)
        boxes = np.concatenate([corner, corner + sides], 1)
        labels = random.integers(0, 3, count)
        crowd = random.uniform(size=count) < 0.2
        truth = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        targets.append(objects(truth, labels.tolist(), SIZE, masks=ellipses(truth), crowd=crowd.tolist()))

        copies = [] if index in (5, 7) else [i for i in range(count) for _ in range(int(random.integers(0, 4)))]
        found = boxes[copies] + random.normal(0, 0.08, (len(copies), 4)) * np.tile(sides[copies], 2)
        wrong = random.uniform(size=len(copies)) < 0.2
        named = np.where(wrong, random.integers(0, 4, len(copies)), labels[copies])
        if index == 2:  # boxes where there is nothing
            found, named = np.array([[10.0, 10, 90, 80], [5, 100, 30, 140]]), np.array([0, 3])
        guess = torch.tensor(found, dtype=torch.float32).reshape(-1, 4)
        guess[:, 2:] = torch.maximum(guess[:, 2:], guess[:, :2] + 3)
        scores = torch.tensor(random.uniform(0.05, 1, len(guess)), dtype=torch.float32)
        predictions.append(
            {"boxes": guess, "labels": torch.tensor(named).long(), "scores": scores, "masks": ellipses(guess)}
        )
    return predictions, targets


def pycocotools(
    predictions: list[dict[str, Tensor]], targets: list[dict[str, Tensor]], kind: str, area_of: str
) -> tuple[dict[str, float], dict[str, float]]:
    """The 12 numbers, and average precision by class; NaN where it says -1."""

    def boxes(target: dict[str, Tensor], k: int) -> list[float]:
        x1, y1, x2, y2 = target["boxes"][k].tolist()
        return [x1, y1, x2 - x1, y2 - y1]

    def mask(target: dict[str, Tensor], k: int) -> Any:
        return rle.encode(np.asfortranarray(target["masks"][k].numpy().astype(np.uint8)))

    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for i, (target, prediction) in enumerate(zip(targets, predictions, strict=True)):
        for k in range(len(target["labels"])):
            box, segmentation = boxes(target, k), mask(target, k)
            area = box[2] * box[3] if area_of == "bbox" else float(rle.area(segmentation))
            what = {"bbox": box, "segmentation": segmentation, "area": area, "iscrowd": int(target["crowd"][k])}
            identity = {"id": len(annotations) + 1, "image_id": i, "category_id": int(target["labels"][k])}
            annotations.append(what | identity)
        for k in range(len(prediction["labels"])):
            shape = {"bbox": boxes(prediction, k)} if kind == "bbox" else {"segmentation": mask(prediction, k)}
            named = {"category_id": int(prediction["labels"][k]), "score": float(prediction["scores"][k])}
            results.append({"image_id": i, **named, **shape})
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(len(targets))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    numbers = {name: _number(value) for name, value in zip(NUMBERS, evaluation.stats, strict=True)}
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # threshold, recall, class; all areas, 100 detections
    return numbers, {name: _number(precision[:, :, i].mean()) for i, name in enumerate(CLASSES)}


def _number(value: float) -> float:
    return math.nan if value == -1 else float(value)


def measured(
    predictions: list[Any], targets: list[Any], kinds: tuple[str, ...], sizes: tuple[int, ...]
) -> dict[str, float]:
    metrics, start = CocoMetrics(CLASSES, kinds), 0
    for size in sizes:
        metrics.update(predictions[start : start + size], targets[start : start + size])
        start += size
    assert start == len(targets)
    return {name: float(value) for name, value in name_scalars(metrics.compute()).items()}


def without_masks(parts: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    return [{name: value for name, value in part.items() if name != "masks"} for part in parts]


def same(found: dict[str, float], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name


def test_boxes_are_measured_as_pycocotools_measures_them() -> None:
    predictions, targets = scenes()
    numbers, classes = pycocotools(predictions, targets, "bbox", area_of="bbox")
    assert 0.1 < numbers["map"] < 0.9 and all(math.isfinite(value) for value in numbers.values())
    found = measured(without_masks(predictions), without_masks(targets), BOX, (5, 1, 0, 6))
    same(found, numbers)
    same(found, {f"ap/{name}": value for name, value in classes.items()})
    assert math.isnan(found["ap/dog"]) and len(found) == 16


def test_masks_are_measured_as_pycocotools_measures_them() -> None:
    predictions, targets = scenes()
    found = measured(predictions, targets, BOTH, (5, 1, 0, 6))
    numbers, classes = pycocotools(predictions, targets, "segm", area_of="segm")
    boxes, box_classes = pycocotools(predictions, targets, "bbox", area_of="segm")
    assert numbers["map"] != boxes["map"]
    same(found, numbers)
    same(found, {f"ap/{name}": value for name, value in classes.items()})
    same(found, {f"box_{name}": value for name, value in boxes.items()})
    same(found, {f"box_ap/{name}": value for name, value in box_classes.items()})
    assert len(found) == 32


def test_sizes_are_by_the_area_that_the_file_gives() -> None:
    """As of COCO's own boxes, whose `area` is that of their segments."""
    predictions, targets = scenes()
    numbers, _ = pycocotools(predictions, targets, "bbox", area_of="segm")
    others, _ = pycocotools(predictions, targets, "bbox", area_of="bbox")
    assert any(abs(numbers[name] - others[name]) > 1e-3 for name in ("map_small", "map_medium", "map_large"))
    given = [
        objects(target["boxes"], target["labels"], SIZE, crowd=target["crowd"], area=target["masks"].sum((1, 2)))
        for target in targets
    ]
    same(measured(without_masks(predictions), given, BOX, (5, 1, 0, 6)), numbers)


def test_crowds_are_neither_missed_nor_found_wrong() -> None:
    targets = [objects([[0, 0, 50, 50], [100, 100, 150, 150]], [0, 0], SIZE, crowd=[False, True])]
    perfect = {"boxes": torch.tensor([[0.0, 0, 50, 50]]), "labels": torch.tensor([0]), "scores": torch.tensor([0.9])}
    assert measured([perfect], targets, BOX, (1,))["map"] == 1
    boxes = torch.tensor([[0.0, 0, 50, 50], [101, 101, 149, 149]])
    inside = {"boxes": boxes, "labels": torch.tensor([0, 0]), "scores": torch.tensor([0.5, 0.9])}
    assert measured([inside], targets, BOX, (1,))["map"] == 1
    targets[0]["crowd"][:] = False
    assert measured([inside], targets, BOX, (1,))["map_50"] == 1
    assert measured([perfect], targets, BOX, (1,))["map_50"] == pytest.approx(51 / 101)


@pytest.mark.parametrize("kinds", [BOX, BOTH])
def test_numbers_without_truth_are_nan_and_misses_are_zero(kinds: tuple[str, ...]) -> None:
    box = torch.tensor([[0.0, 0, 50, 50]])
    nothing: dict[str, Tensor] = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
        "masks": torch.zeros(0, *SIZE, dtype=torch.bool),
    }
    guess = {"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([0.9]), "masks": ellipses(box)}
    empty = objects([], [], SIZE, masks=torch.zeros(0, *SIZE))
    full = objects(box, [0], SIZE, masks=ellipses(box))
    missed = measured([nothing], [full], kinds, (1,))
    assert missed["map"] == missed["map_medium"] == missed["ap/ant"] == 0
    assert math.isnan(missed["map_small"]) and math.isnan(missed["ap/bee"])
    for predictions, targets in (([nothing], [empty]), ([guess], [empty]), ([], [])):
        found = measured(predictions, targets, kinds, (len(targets),))
        assert found.keys() == missed.keys() and all(math.isnan(value) for value in found.values())


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/meeting", world_size=2, rank=rank)
    predictions, targets = scenes()
    computed = []
    for mine in (slice(0, 9), slice(9, 12)), (slice(0, 12), slice(12, 12)):
        part = mine[rank]
        metrics = CocoMetrics(CLASSES, BOTH)
        metrics.update(predictions[part], targets[part])
        computed.append({name: float(value) for name, value in name_scalars(metrics.compute()).items()})
        assert len(metrics.detection_scores) == len(targets[part])  # a rank has its own images again
    (Path(folder) / f"{rank}.json").write_text(json.dumps(computed))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_unequal_numbers_of_images_give_what_one_gives(tmp_path: Path) -> None:
    expected = measured(*scenes(), BOTH, (12,))
    multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        for found in json.loads((tmp_path / f"{rank}.json").read_text()):
            assert found.keys() == expected.keys()
            same(found, expected)
