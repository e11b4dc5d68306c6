"""Feature maps of one width at many strides, for detectors, from the maps of any backbone."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from visiontune.errors import UserError
from visiontune.models.features import FeatureShape
from visiontune.models.heads.detector_options import DetectorOptions

MAX_STRIDE = 32  # of a single map, in pixels; coarser maps do not resolve objects


class Pyramid(nn.Module):
    """Maps ``(B, channels, ceil(H/s), ceil(W/s))`` for each s of `strides`, finest first.

    From a backbone with maps at several strides or of several widths: torchvision's feature pyramid network (Lin et al.
    2017, https://arxiv.org/abs/1612.03144). From a plain ViT, whose maps all have one stride and width: the simple
    feature pyramid of ViTDet (Li et al. 2022, https://arxiv.org/abs/2203.16527), computed from the last map. Without
    `norm_layer`, no layer keeps batch statistics.

    Attributes:
        strides: of all levels, in pixels.
        pooled: number of levels from the backbone's maps; the other levels are computed from the coarsest of them.
    """

    def __init__(
        self,
        features: FeatureShape,
        channels: int = 128,
        min_stride: int = 8,
        extra: str = "pyramid",
        norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:
        """
        Args:
            min_stride: of the finest level, 4 or 8; if all maps of a backbone are finer, its coarsest map is used.
            extra: the levels after those of the backbone: two levels by convolutions with stride 2, as in RetinaNet, of
                the "pyramid"'s coarsest level or of the "backbone"'s coarsest map; or "pool" (one level by subsampling,
                as in a Faster R-CNN).
            norm_layer: called with the number of channels, after each convolution of a feature pyramid network.

        Raises:
            UserError: the backbone has no map that is fine enough, or only maps of one stride with extra="backbone".
        """
        super().__init__()
        last = {stride: i for i, stride in enumerate(features.strides)}  # later maps of one stride are deeper
        if not last or min(last) > MAX_STRIDE:
            raise UserError(
                f"the backbone's maps have the strides {features.strides}, and boxes need one of {MAX_STRIDE} or "
                "finer: a CNN, a Swin, or a ViT with patches of at most that; write e.g. backbone.name=resnet50"
            )
        self.channels = channels
        self.top_down: FeaturePyramidNetwork | None = None
        if len(last) > 1 or len({*features.channels}) > 1:
            self.map_indices = [last[s] for s in sorted(last) if s >= min_stride] or [last[max(last)]]
            if len(last) == 1:  # such as the last two of a MobileNetV3
                self.map_indices = list(range(len(features.strides)))
            self.strides: list[float] = [features.strides[i] for i in self.map_indices]
            widths = [features.channels[i] for i in self.map_indices]
            self.top_down = FeaturePyramidNetwork(widths, channels, norm_layer=norm_layer)
        elif extra == "backbone":
            raise UserError(
                f"extra_levels=backbone needs maps of several strides, and the backbone's have {features.strides}; "
                "write extra_levels=pyramid"
            )
        else:
            (stride, index) = last.popitem()
            steps = min(2, max(0, round(math.log2(stride / min_stride))))  # doublings of the map's resolution
            self.map_indices = [index] * (steps + 2)
            self.strides = [stride / 2**step for step in range(steps, -2, -1)]  # with patches of 14 pixels also 3.5
            self.branches = nn.ModuleList(
                _branch(features.channels[index], channels, step) for step in range(steps, -2, -1)
            )
        self.pooled = len(self.strides)
        if extra == "pool":
            self.extra: LastLevelMaxPool | LastLevelP6P7 = LastLevelMaxPool()
        else:
            width = features.channels[self.map_indices[-1]] if extra == "backbone" else channels
            self.extra = LastLevelP6P7(width, channels)
            self.extra.use_P5 = extra == "pyramid"  # torchvision would compare the widths
        self.strides += [self.strides[-1] * 2**i for i in range(1, 2 if extra == "pool" else 3)]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        selected = [maps[i] for i in self.map_indices]
        if self.top_down is not None:
            levels = list(self.top_down(OrderedDict((str(i), m) for i, m in enumerate(selected))).values())
        else:
            levels = [branch(m) for branch, m in zip(self.branches, selected, strict=True)]
        return self.extra(levels, selected, [])[0]

    def anchors(
        self, generator: AnchorGenerator, levels: list[Tensor], size: tuple[int, int] | None = None
    ) -> tuple[Tensor, list[int]]:
        """Anchors ``(A, 4)`` of all levels, float32, and their number per level.

        Args:
            size: (H, W) of the input, to divide by the size of each map for the distance between anchors, as the
                generator's `forward` does. None = the nominal strides, which differ if a side is not a multiple of the
                stride.
        """
        device = levels[0].device
        generator.set_cell_anchors(torch.float32, device)
        sizes = [list(level.shape[-2:]) for level in levels]
        if size is None:
            steps = [[torch.tensor(stride, device=device)] * 2 for stride in self.strides]
        else:
            sides = [[size[0] // height, size[1] // width] for height, width in sizes]
            steps = [[torch.tensor(side, device=device) for side in pair] for pair in sides]
        anchors = generator.grid_anchors(sizes, steps)
        return torch.cat(anchors), [len(level) for level in anchors]


def _branch(width: int, channels: int, doublings: int) -> nn.Sequential:
    """A level from a plain ViT's map, at 1/2, 1, 2 or 4 times its resolution."""
    layers: list[nn.Module] = []
    if doublings < 0:
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    for i in range(doublings):
        layers += [*([nn.GroupNorm(1, width), nn.GELU()] if i else []), nn.ConvTranspose2d(width, width // 2, 2, 2)]
        width //= 2
    for kernel, inputs in ((1, width), (3, channels)):
        layers += [nn.Conv2d(inputs, channels, kernel, padding=kernel // 2, bias=False), nn.GroupNorm(1, channels)]
    return nn.Sequential(*layers)


def level_sizes(options: DetectorOptions, strides: Sequence[float], default: Sequence[float]) -> list[list[float]]:
    """Sides of the square anchors in pixels, one list per level; `default` is in strides.

    Raises:
        UserError: the number of entries is not that of the levels, or their numbers of sizes differ.
    """
    entries = options.anchor_sizes
    if entries is None:
        return [[factor * stride for factor in default] for stride in strides]
    sizes = [entry if isinstance(entry, list) else [entry] for entry in entries] if isinstance(entries, list) else []
    if len(sizes) != len(strides) or len({len(size) for size in sizes}) > 1:
        example = ",".join(f"{4 * stride:g}" for stride in strides)
        raise UserError(
            f"{options.key}.anchor_sizes={entries}: expected an entry for each of the {len(strides)} levels, of "
            f"strides {strides}, all with the same number of sizes; write e.g. {options.key}.anchor_sizes=[{example}]"
        )
    return sizes
