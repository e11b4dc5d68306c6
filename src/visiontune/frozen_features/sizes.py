"""The size of recorded outputs and targets in bytes."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from visiontune.data import VisionData
from visiontune.models.replay import IMAGE, ReplayPlan, tensors

SAMPLED_ITEMS = 8  # the size of all targets is estimated from about this many samples


def count_bytes(
    data: VisionData, split: str, paths: Mapping[int, Iterable[str]], plans: Iterable[ReplayPlan], bits: int
) -> int:
    """Bytes that the outputs and targets of a split need.

    Args:
        paths: view -> paths of the modules whose outputs are stored.
        plans: they hold the shapes of the outputs.
        bits: bits per stored number.
    """
    shapes: dict[str, tuple[int, ...]] = {IMAGE: (data.channels, *data.image_size)}
    for plan in plans:
        shapes |= plan.shapes
    targets = _target_bytes(data, split) if paths else 0
    outputs = (torch.Size(shapes[path]).numel() * bits // 8 for view in paths.values() for path in view)
    return len(data.samples(split)) * (sum(outputs) + len(paths) * targets)


def without_image(item: dict[str, Any]) -> dict[str, Any]:
    """The part of an item of a dataset that stays in memory."""
    return {key: value for key, value in item.items() if key != "image"}


def _target_bytes(data: VisionData, split: str) -> int:
    """Mean bytes of a sample's targets, estimated from a few samples; 0 if all are class labels."""
    targets = [target for sample in data.samples(split) for target in sample.targets.values()]
    if all(target is None or isinstance(target, int) for target in targets):
        return 0
    dataset = data.dataset(split, augmented=split == "train")
    indices = range(0, len(dataset), max(1, len(dataset) // SAMPLED_ITEMS))
    return sum(tensor.nbytes for i in indices for tensor in tensors(without_image(dataset[i]))) // len(indices)
