"""Ranges and means of a network's activations, collected from calibration images before quantization."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

CALIBRATIONS = ("minmax", "mse")
SAMPLES = 2048  # values per activation and image that `mse` compares


@dataclass(frozen=True)
class Calibration:
    """The ranges and means of activations.

    Attributes:
        ranges: by activation, the lowest and the highest value that 8 bits represent.
        means: by layer, the mean of each input channel, ``(C,)``.
    """

    ranges: dict[str, tuple[float, float]]
    means: dict[str, np.ndarray]


def collect_calibration(
    images: Iterable[dict[str, np.ndarray]], tensors: Collection[str], inputs: Mapping[str, list[str]], method: str
) -> Calibration:
    """Collect ranges and means from calibration images.

    Args:
        images: for each image, the values by activation.
        tensors: the activations whose range is needed.
        inputs: by layer, the names of its input activations ``(N, C, ...)``.
        method: see `Network.calibrate`.
    """
    samples: dict[str, list[np.ndarray]] = {name: [] for name in sorted(tensors)}  # sorted: fixes the order of draws
    sums, counts = dict.fromkeys(inputs, np.zeros(())), dict.fromkeys(inputs, 0)
    rng = np.random.default_rng(0)
    for activations in images:
        for name in samples:
            values = activations[name].ravel()
            extremes = [values.min(initial=0), values.max(initial=0)]
            random_values = rng.choice(values, SAMPLES) if method == "mse" and len(values) else values[:0]
            samples[name].append(np.concatenate([extremes, random_values]))
        for layer, names in inputs.items():
            for value in (activations[name] for name in names):
                flat = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
                sums[layer], counts[layer] = sums[layer] + flat.sum(1, np.float64), counts[layer] + flat.shape[1]
    return Calibration(
        {name: _range(np.stack(values), method) for name, values in samples.items()},
        {layer: total / max(counts[layer], 1) for layer, total in sums.items()},
    )


def _range(values: np.ndarray, method: str) -> tuple[float, float]:
    """The range for values ``(images, 2 + samples)``: of each image the lowest, the highest, and random values."""
    low, high = float(values[:, 0].min()), float(values[:, 1].max())
    if method == "minmax":
        return low, high
    best = min(
        np.linspace(0.2, 1, 41).tolist(), key=lambda part: _rounding_error(values[:, 2:], part * low, part * high)
    )
    return best * low, best * high


def _rounding_error(values: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of `values` when they are rounded to 8 bits and clipped to this range."""
    scale = max(high - low, 1e-12) / 255
    return float(np.square(np.clip(np.round(values / scale) * scale, low, high) - values).mean())
