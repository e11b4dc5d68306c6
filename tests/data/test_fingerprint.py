"""The hash of an image's labels: what it tells apart, and what makes no difference."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from visiontune.data.boxes import StoredBoxes
from visiontune.data.fingerprint import fingerprint, hash_mask
from visiontune.data.label_maps import Coding, StoredLabelMap
from visiontune.data.polygons import StoredInstances
from visiontune.data.readers import digit_scenes
from visiontune.data.targets import objects

BOXES = StoredBoxes(np.array([[1, 2, 3, 4]], dtype=np.float32), [0], [False], (8, 8))
POLYGONS = StoredInstances(BOXES, [[np.array([1.0, 2, 3, 2, 3, 4])]])
LENGTHS = StoredInstances(BOXES, [{"size": [8, 8], "counts": b"abc"}])


class Own:
    """A target that is neither of ours nor a dataclass."""

    def __init__(self, labels: Sequence[int]) -> None:
        self.labels = labels

    def load(self, size: tuple[int, int]) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, None),
        (torch.tensor([1.0, 0.0]), torch.tensor([1.0, float("nan")])),
        (BOXES, replace(BOXES, boxes=BOXES.boxes + 1)),
        (BOXES, replace(BOXES, labels=[1])),
        (BOXES, replace(BOXES, crowd=[True])),
        (POLYGONS, replace(POLYGONS, segments=[[np.array([1.0, 2, 3, 2, 4, 4])]])),
        (LENGTHS, replace(LENGTHS, segments=[{"size": [8, 8], "counts": b"abd"}])),
        (objects([[1, 2, 3, 4]], [0], (8, 8)), objects([[1, 2, 3, 5]], [0], (8, 8))),
        (tv_tensors.Image(torch.zeros(3, 4, 4)), tv_tensors.Image(torch.ones(3, 4, 4))),
        (Own([1, 2]), Own([1, 3])),
    ],
)
def test_other_labels_have_another_hash(one: Any, other: Any) -> None:
    assert fingerprint({"task": one}) != fingerprint({"task": other})
    assert fingerprint({"task": one}) == fingerprint({"task": one}) != fingerprint({"another": one})
    assert len(fingerprint({"task": one})) == 16


def test_where_a_mask_lies_is_no_label() -> None:
    pixels = np.zeros((4, 4), dtype=np.uint8)
    maps = [
        StoredLabelMap(Path(place), [0], Coding(["ground"]), hash_mask(content))
        for place, content in (("a.png", pixels), ("b.png", pixels), ("a.png", pixels + 1))
    ]
    hashes = [fingerprint({"segmentation": stored}) for stored in maps]
    assert hashes[0] == hashes[1] != hashes[2]


def test_scenes_hash_alike_whenever_they_are_made() -> None:
    first, second = (digit_scenes.read(scenes=20).samples for _ in range(2))
    hashes = [fingerprint(sample.targets) for sample in first]
    assert hashes == [fingerprint(sample.targets) for sample in second] and len(set(hashes)) == 20
