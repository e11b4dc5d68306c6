"""How many bytes recorded outputs and targets need."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from visiontune.data import VisionData
from visiontune.models.replay import IMAGE, ReplayPlan, tensors

SAMPLED_ITEMS = 8  # from whose targets the size of all targets is estimated


def count_bytes(
    data: VisionData, split: str, paths: Mapping[int, Iterable[str]], plans: Iterable[ReplayPlan], bits: int
) -> int:
    """Bytes of a split.

    Args:
        paths: view -> the modules whose outputs are stored.
        plans: where the shapes of outputs stand.
        bits: of a stored number.
    """
    shapes: dict[str, tuple[int, ...]] = {IMAGE: (data.channels, *data.image_size)}
    for plan in plans:
        shapes |= plan.shapes
    targets = _target_bytes(data, split) if paths else 0
    outputs = (torch.Size(shapes[path]).numel() * bits // 8 for view in paths.values() for path in view)
    return len(data.samples(split)) * (sum(outputs) + len(paths) * targets)


def without_image(item: dict[str, Any]) -> dict[str, Any]:
    """What stays in memory of an item of a dataset."""
    return {key: value for key, value in item.items() if key != "image"}


def _target_bytes(data: VisionData, split: str) -> int:
    """Bytes of one sample's targets, which stay in memory; the mean of a few samples."""
    targets = [target for sample in data.samples(split) for target in sample.targets.values()]
    if all(target is None or isinstance(target, int) for target in targets):
        return 0
    dataset = data.dataset(split, augmented=split == "train")
    indices = range(0, len(dataset), max(1, len(dataset) // SAMPLED_ITEMS))
    return sum(tensor.nbytes for i in indices for tensor in tensors(without_image(dataset[i]))) // len(indices)
