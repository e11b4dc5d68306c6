"""Features of boxes, pooled from the raw tensors of a two-stage detector."""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align
from torchvision.ops.poolers import MultiScaleRoIAlign, initLevelMapper

from visiontune.models.heads.base import Raw


def build_pool(strides: Sequence[float], cells: int) -> MultiScaleRoIAlign:
    """RoIAlign to `cells` x `cells`, from levels of these strides."""
    pool = MultiScaleRoIAlign([str(i) for i in range(len(strides))], cells, sampling_ratio=2)
    # torchvision would derive powers of two from the first batch, which is wrong for patches of 14 pixels.
    pool.scales = [1 / stride for stride in strides]
    pool.map_levels = initLevelMapper(round(math.log2(strides[0])), round(math.log2(strides[-1])))
    return pool


def pyramid_levels(raw: Raw) -> OrderedDict[str, Tensor]:
    return OrderedDict((name.removeprefix("level_"), raw[name]) for name in raw if name.startswith("level_"))


def pool_boxes(pool: MultiScaleRoIAlign, raw: Raw, boxes: list[Tensor]) -> Tensor:
    """Features ``(N, channels, cells, cells)`` of the N boxes of all images."""
    levels = pyramid_levels(raw)
    if not torch.compiler.is_exporting():
        return pool(levels, boxes, input_sizes(raw))
    (rois,) = boxes  # one image; torchvision's `forward` depends on the number of boxes
    assigned = pool.map_levels([rois])
    indexed = torch.cat([rois.new_zeros(rois.shape[0], 1), rois], 1)
    pooled = rois.new_zeros(rois.shape[0], raw["level_0"].shape[1], *pool.output_size)
    for i, (level, scale) in enumerate(zip(levels.values(), pool.scales, strict=True)):
        rows = (assigned == i).nonzero()[:, 0]
        values = roi_align(level, indexed[rows], pool.output_size, scale, pool.sampling_ratio)
        pooled = pooled.index_put((rows,), values)
    return pooled


def input_sizes(raw: Raw) -> list[tuple[int, int]]:
    return [raw["size"]] * len(raw["kept"])


def split_proposals(raw: Raw) -> list[Tensor]:
    """The proposals of each image, without padding."""
    return [boxes[:count] for boxes, count in zip(raw["proposals"], raw["kept"].tolist(), strict=True)]
