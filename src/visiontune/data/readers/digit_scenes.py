"""Scenes composed of scikit-learn's real handwritten digits on coloured textures: one small set for every task.

Nothing is read from disk or fetched. A scene follows from the seed, its split and its number alone, and no digit
occurs in two splits. The images have noise in them; the dense task is to take it out.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes

from visiontune.data.readers.digits import load_digits
from visiontune.data.readers.scenes import TEXTURES, Scene, compose
from visiontune.data.schema import SPLITS, Sample, Source, TaskInfo
from visiontune.data.targets import LabelMap, objects
from visiontune.errors import UserError

DIGITS = [str(digit) for digit in range(10)]
SHARES = (0.8, 0.9)  # of the digits, and of the scenes: where training ends, and where validation does


def read(scenes: int = 1000, scene_size: int = 96, noise: float = 0.1, scene_seed: int = 0) -> Source:
    """Scenes with one to five digits each, 80% of them for training; seven tasks, named as their kinds.

    Args:
        scenes: in all splits together.
        scene_size: height and width in pixels.
        noise: standard deviation of the Gaussian noise, where 1 is from black to white.

    Raises:
        UserError: too few scenes, too small ones, or noise out of range.
    """
    for key, value, least in (("scenes", scenes, 20), ("scene_size", scene_size, 64)):
        if not isinstance(value, int) or value < least:
            raise UserError(f"data.{key}={value}: write {least} or more")
    if not 0 <= noise <= 1:
        raise UserError(f"data.noise={noise}: write a number from 0 to 1, such as data.noise=0.1")
    digits, digit_labels = load_digits()
    order = np.random.default_rng(scene_seed).permutation(len(digits))
    samples = []
    for place, (split, part, numbers) in enumerate(zip(SPLITS, _cut(order), _cut(np.arange(scenes)), strict=True)):
        images, labels = digits[part] / 16, digit_labels[part]
        for i in range(len(numbers)):
            rng = np.random.default_rng([scene_seed, place, i])
            scene = compose(rng, images, labels, scene_size)
            noisy = scene.picture + noise * rng.standard_normal(scene.picture.shape)
            path = f"digit_scenes/{split}/{i:04d}"
            samples.append(Sample(path, _targets(scene), split, image=_uint8(noisy)))
    classes = {
        "classification": TEXTURES,
        "multilabel": DIGITS,
        "regression": ["count"],
        "segmentation": ["background", *DIGITS],
        "detection": DIGITS,
        "instances": DIGITS,
        "dense": ["red", "green", "blue"],
    }
    return Source({kind: TaskInfo(kind, list(names)) for kind, names in classes.items()}, samples)


@dataclass(frozen=True, eq=False)
class SceneObjects:
    """Boxes around what is seen of each digit, and its masks, made when they are needed."""

    owner: Tensor
    labels: list[int]
    masks: bool

    def load(self, size: tuple[int, int]) -> dict[str, Tensor]:
        seen = self.owner == torch.arange(1, len(self.labels) + 1)[:, None, None]
        boxes = masks_to_boxes(seen) + torch.tensor([0.0, 0.0, 1.0, 1.0])  # to the end of the last pixel
        return objects(boxes, self.labels, size, masks=seen if self.masks else None)


@dataclass(frozen=True, eq=False)
class SceneLabels:
    """0 for the background, the digit plus 1 where one is seen, made when it is needed."""

    owner: Tensor
    digits: list[int]

    @property
    def labels(self) -> list[int]:
        return sorted({0, *(digit + 1 for digit in self.digits)})

    def load(self, size: tuple[int, int]) -> LabelMap:
        return LabelMap(torch.tensor([0, *(digit + 1 for digit in self.digits)], dtype=torch.uint8)[self.owner.int()])


def _targets(scene: Scene) -> dict[str, Any]:
    owner, labels = torch.from_numpy(scene.owner), scene.labels
    presence = torch.zeros(len(DIGITS))
    presence[labels] = 1.0
    return {
        "classification": scene.texture,
        "multilabel": presence,
        "regression": torch.tensor([float(len(labels))]),
        "segmentation": SceneLabels(owner, labels),
        "detection": SceneObjects(owner, labels, masks=False),
        "instances": SceneObjects(owner, labels, masks=True),
        "dense": tv_tensors.Image(_uint8(scene.picture)),
    }


def _cut(things: np.ndarray) -> list[np.ndarray]:
    return np.split(things, [round(share * len(things)) for share in SHARES])


def _uint8(picture: np.ndarray) -> Tensor:
    return torch.from_numpy((picture * 255).round().clip(0, 255).astype(np.uint8))
