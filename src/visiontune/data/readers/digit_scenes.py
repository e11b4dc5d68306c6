"""Scenes of scikit-learn's real handwritten digits on colored textures: a small data set for every kind of task.

Nothing is downloaded. A scene depends only on the seed, its split and its index, and no digit occurs in two splits.
The images are noisy; the dense task is to remove the noise.
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
SHARES = (0.8, 0.9)  # of the digits and of the scenes: the ends of train and of val


def read(scenes: int = 1000, scene_size: int = 96, noise: float = 0.1, scene_seed: int = 0) -> Source:
    """Scenes with one to five digits each, 80% of them for training, with a task of every kind.

    Args:
        scenes: number of scenes in all splits together.
        scene_size: height and width in pixels.
        noise: standard deviation of the Gaussian noise, 0..1; 1 is the difference between black and white.
        scene_seed: 0 or more; another seed makes other scenes.

    Raises:
        UserError: an argument is out of range.
    """
    for key, value, minimum in (("scenes", scenes, 20), ("scene_size", scene_size, 64), ("scene_seed", scene_seed, 0)):
        if not isinstance(value, int) or value < minimum:
            raise UserError(f"data.{key}={value}: write {minimum} or more")
    if not isinstance(noise, int | float) or not 0 <= noise <= 1:
        raise UserError(f"data.noise={noise}: write a number from 0 to 1, such as data.noise=0.1")
    digits, digit_labels = load_digits()
    order = np.random.default_rng(scene_seed).permutation(len(digits))
    samples = []
    for split_index, (split, digit_indices, numbers) in enumerate(
        zip(SPLITS, _split_items(order), _split_items(np.arange(scenes)), strict=True)
    ):
        images, labels = digits[digit_indices] / 16, digit_labels[digit_indices]
        for i in range(len(numbers)):
            rng = np.random.default_rng([scene_seed, split_index, i])
            scene = compose(rng, images, labels, scene_size)
            noisy = scene.image + noise * rng.standard_normal(scene.image.shape)
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
    """Boxes around the visible part of each digit, and optionally its masks, built on demand."""

    owner: Tensor
    labels: list[int]
    masks: bool

    def load(self, size: tuple[int, int]) -> dict[str, Tensor]:
        visible = self.owner == torch.arange(1, len(self.labels) + 1)[:, None, None]
        boxes = masks_to_boxes(visible) + torch.tensor([0.0, 0.0, 1.0, 1.0])  # to the end of the last pixel
        return objects(boxes, self.labels, size, masks=visible if self.masks else None)


@dataclass(frozen=True, eq=False)
class SceneLabels:
    """A label map built on demand: 0 for the background, digit + 1 for digits."""

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
        "dense": tv_tensors.Image(_uint8(scene.image)),
    }


def _split_items(items: np.ndarray) -> list[np.ndarray]:
    return np.split(items, [round(share * len(items)) for share in SHARES])


def _uint8(image: np.ndarray) -> Tensor:
    return torch.from_numpy((image * 255).round().clip(0, 255).astype(np.uint8))
