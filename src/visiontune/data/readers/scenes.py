"""Draw a scene: a colored texture with handwritten digits on it, which may overlap.

All computations use double precision, so that the images, rounded to 0..255, are the same on every machine.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.ndimage import affine_transform

Array = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[Any]]

TEXTURES = ["gradient", "clouds", "stripes", "checks"]
MOST = 5  # digits per scene
HEIGHTS = (16.0, 36.0)  # of a digit, in pixels
TURN = 15.0  # degrees to each side
TRIES = 20
LEAST_VISIBLE = 0.3  # of a digit's pixels, if other digits cover it
MOST_OVERLAP = 0.4  # of the smaller of two boxes


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn scene.

    Attributes:
        image: ``(3, H, W)`` in 0..1.
        owner: ``(H, W)`` uint8, 0 for the background, i + 1 for the visible pixels of digit i.
        labels: labels of the digits, in the order of drawing.
        texture: index of the background in `TEXTURES`.
    """

    image: Array
    owner: Ints
    labels: list[int]
    texture: int


def compose(rng: np.random.Generator, images: Array, labels: Ints, size: int) -> Scene:
    """Draw one to `MOST` of these digits on a square texture; enough of each digit stays visible.

    Args:
        images: ``(N, 8, 8)`` in 0..1.
        labels: ``(N,)``
        size: of the scene, in pixels.
    """
    texture = int(rng.integers(len(TEXTURES)))
    image = _background(rng, TEXTURES[texture], size)
    owner = np.zeros((size, size), dtype=np.uint8)
    boxes: list[tuple[int, int, int, int]] = []
    areas: list[int] = []
    placed: list[int] = []
    for _ in range(int(rng.integers(1, MOST + 1))):
        digit = int(rng.integers(len(images)))
        ink = _ink(rng, images[digit])
        mask = ink >= 0.5
        height, width = mask.shape
        for _ in range(TRIES):
            top, left = (int(rng.integers(size - side + 1)) for side in (height, width))
            box, window = (left, top, left + width, top + height), np.s_[top : top + height, left : left + width]
            covered = np.bincount(owner[window][mask], minlength=len(areas) + 1)[1:]
            visible = np.bincount(owner.ravel(), minlength=len(areas) + 1)[1:] - covered
            if (visible < LEAST_VISIBLE * np.array(areas)).any() or any(_overlap(box, b) > MOST_OVERLAP for b in boxes):
                continue
            owner[window][mask] = len(areas) + 1
            patch = image[:, window[0], window[1]]
            patch += ink * (_colour(rng, patch.mean((1, 2)))[:, None, None] - patch)
            boxes.append(box)
            areas.append(int(mask.sum()))
            placed.append(int(labels[digit]))
            break
    return Scene(image, owner, placed, texture)


def _ink(rng: np.random.Generator, image: Array) -> Array:
    """An enlarged and rotated digit: the covered part of each pixel, 0..1, cropped to the digit."""
    scale = math.exp(rng.uniform(*np.log(HEIGHTS))) / 8
    turn = math.radians(rng.uniform(-TURN, TURN))
    side = math.ceil(8 * scale * 1.3) + 2
    back = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]) / scale
    offset = 3.5 - back @ np.full(2, (side - 1) / 2)
    smooth = affine_transform(image, back, offset, (side, side), order=3)
    ink = ((smooth - 0.2) / 0.35).clip(0, 1)
    rows, columns = (np.flatnonzero((ink >= 0.5).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _colour(rng: np.random.Generator, around: Array) -> Array:
    """A tinted color: light on a dark background, dark on a light one."""
    tint = rng.uniform(0, 1, 3)
    return 0.75 + 0.25 * tint if around.mean() < 0.5 else 0.3 * tint


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """The overlap of two boxes as a share of the smaller one."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(0, width) * max(0, height) / smaller


def _background(rng: np.random.Generator, texture: str, size: int) -> Array:
    """``(3, H, W)`` in 0..1: a texture between two colours, with clouds over it."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    angle = rng.uniform(0, 2 * math.pi)
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    waves = rng.uniform(4, 9)
    if texture == "gradient":
        mixture = along / 1.2 + 0.5
    elif texture == "clouds":
        mixture = 0.5 + 0.6 * _clouds(rng, 1, size)[0]
    elif texture == "stripes":
        mixture = 0.5 + 0.5 * np.sin(2 * math.pi * waves * along)
    else:
        mixture = (np.floor(waves * along) + np.floor(waves * across)) % 2
    first = rng.uniform(0.2, 0.8, 3)
    second = (first + rng.uniform(0.15, 0.4, 3) * rng.choice([-1, 1], 3)).clip(0.1, 0.9)
    image = first[:, None, None] + (second - first)[:, None, None] * mixture
    return (image + 0.08 * _clouds(rng, 3, size)).clip(0, 1)


def _clouds(rng: np.random.Generator, channels: int, size: int) -> Array:
    """``(channels, size, size)`` smooth noise of four octaves, about -1..1."""
    total = np.zeros((channels, size, size))
    for octave, cells in enumerate((3, 6, 12, 24)):
        spread = _spread(cells, size)
        total += (spread @ rng.uniform(-1, 1, (channels, cells, cells)) @ spread.T) / 2**octave
    return total


@cache
def _spread(cells: int, size: int) -> Array:
    """``(size, cells)``: linear interpolation between `cells` values."""
    position = np.linspace(0, cells - 1, size)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells)))
