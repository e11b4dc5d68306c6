"""What images say of the activations of a network that is to compute on integers."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

CALIBRATIONS = ("minmax", "mse")
SAMPLED = 2048  # values of an activation and image that `mse` looks at


@dataclass(frozen=True)
class Calibration:
    """
    Attributes:
        ranges: by activation, the lowest and the highest value that has a number in 8 bits.
        means: by layer, of each channel that it is given, ``(C,)``.
    """

    ranges: dict[str, tuple[float, float]]
    means: dict[str, np.ndarray]


def calibration_of(
    pictures: Iterable[dict[str, np.ndarray]], tensors: Collection[str], fed: Mapping[str, list[str]], method: str
) -> Calibration:
    """
    Args:
        images: by activation, its value for each.
        tensors: activations to take the range of.
        fed: by layer, activations ``(N, C, ...)`` that it is given.
        method: see `Network.calibrate`.
    """
    seen: dict[str, list[np.ndarray]] = {name: [] for name in sorted(tensors)}  # what is drawn follows the order
    sums, counts = dict.fromkeys(fed, np.zeros(())), dict.fromkeys(fed, 0)
    rng = np.random.default_rng(0)
    for found in pictures:
        for name in seen:
            values = found[name].ravel()
            extremes = [values.min(initial=0), values.max(initial=0)]
            drawn = rng.choice(values, SAMPLED) if method == "mse" and len(values) else values[:0]
            seen[name].append(np.concatenate([extremes, drawn]))
        for layer, names in fed.items():
            for value in (found[name] for name in names):
                flat = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
                sums[layer], counts[layer] = sums[layer] + flat.sum(1, np.float64), counts[layer] + flat.shape[1]
    return Calibration(
        {name: _range(np.stack(values), method) for name, values in seen.items()},
        {layer: total / max(counts[layer], 1) for layer, total in sums.items()},
    )


def _range(values: np.ndarray, method: str) -> tuple[float, float]:
    """Of ``(images, 2 + sampled)``: each image's lowest and highest value, then some of the others."""
    low, high = float(values[:, 0].min()), float(values[:, 1].max())
    if method == "minmax":
        return low, high
    best = min(np.linspace(0.2, 1, 41).tolist(), key=lambda part: _clipped(values[:, 2:], part * low, part * high))
    return best * low, best * high


def _clipped(values: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of `values` in 8 bits over this range."""
    scale = max(high - low, 1e-12) / 255
    return float(np.square(np.clip(np.round(values / scale) * scale, low, high) - values).mean())
