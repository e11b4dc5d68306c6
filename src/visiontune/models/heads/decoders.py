"""Decoders: from a backbone's maps to one map of fine resolution, for `segmentation` and `dense`.

| decoder | reads | stride of its output |
| --- | --- | --- |
| fpn | all maps from stride 2 on, top-down, one convolution per level; light and quick to learn | 2 |
| unet | the same with two convolutions per level (Ronneberger et al. 2015, arXiv:1505.04597) | 2 |
| deeplabv3 | the last map, with torchvision's atrous pyramid (Chen et al. 2017, arXiv:1706.05587) | the last map's |
| fcn | the last map (Long et al. 2015, arXiv:1411.4038), torchvision's | the last map's |
| lraspp | the last map, and one of stride 8 (Howard et al. 2019, arXiv:1905.02244), torchvision's; the lightest | 8 |

All of them use GroupNorm, also in torchvision's parts: BatchNorm fails on a batch of one image, and the statistics of
a head would differ between ranks.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.models.segmentation.lraspp import LRASPPHead
from torchvision.ops.misc import Conv2dNormActivation

from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape


def build_decoder(name: str, shape: FeatureShape, channels: int, out: int, dropout: float = 0.0) -> nn.Module:
    """A module from `Features` to a map ``(B, out, h, w)``.

    Args:
        channels: width of lraspp, or of fpn and unet at the coarsest map; they halve it at each finer map, down to a
            quarter. Not used by deeplabv3 and fcn.
        out: channels of the output, which has no activation.
        dropout: 0..1, of whole channels before the last layer.

    Raises:
        UserError: an unknown decoder.
    """
    decoders: dict[str, Callable[..., nn.Module]] = {
        "fpn": TopDown,
        "unet": partial(TopDown, convs=2),
        "deeplabv3": DeepLab,
        "fcn": FCN,
        "lraspp": LRASPP,
    }
    if name not in decoders:
        raise UserError(f"decoder={name}: write one of {', '.join(decoders)}")
    return decoders[name](shape, channels, out, dropout)


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups (Wu and He 2018, arXiv:1803.08494), or fewer, so that each has the same 4 or more channels."""
    groups = next((n for n in (32, 16, 8, 4, 2) if channels % n == 0 and channels >= 4 * n), 1)
    return nn.GroupNorm(groups, channels)


M = TypeVar("M", bound=nn.Module)
conv = partial(Conv2dNormActivation, norm_layer=group_norm)


def upsample(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear, ``align_corners=False``."""
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


class Levels(nn.Module):
    """A backbone's maps from stride `min_stride` on; transposed convolutions add finer maps that are missing.

    They turn the one map of a plain ViT into a pyramid (as in ViTDet, Li et al. 2022, arXiv:2203.16527).

    Attributes:
        channels: of the output maps, coarsest last.
    """

    def __init__(self, shape: FeatureShape, min_stride: int) -> None:
        super().__init__()
        self.first = next((i for i, stride in enumerate(shape.strides) if stride >= min_stride), len(shape.strides) - 1)
        self.channels = shape.channels[self.first :]
        self.finer = nn.ModuleList()
        stride = shape.strides[self.first]
        while stride >= 2 * min_stride:
            stride //= 2
            width = max(32, self.channels[0] // 2)
            up = nn.ConvTranspose2d(self.channels[0], width, 2, stride=2)
            self.finer.append(nn.Sequential(up, group_norm(width), nn.GELU()))
            self.channels = [width, *self.channels]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = maps[self.first :]
        for step in self.finer:
            maps = [step(maps[0]), *maps]
        return maps


class TopDown(nn.Module):
    """From the coarsest map to the finest, narrower at each level. The output is the sum of one output per level.

    The sum is that of FCN (Long et al. 2015): with it, all levels learn from the first step. On 92 images of CamVid the
    mIoU was 0.56. The same U-Net without the sum had 0.41, and a sum of features at stride 4 had 0.50.
    """

    def __init__(self, shape: FeatureShape, channels: int, out: int, dropout: float, convs: int = 1) -> None:
        super().__init__()
        self.levels = Levels(shape, 2)
        *skips, deepest = self.levels.channels
        self.top = conv(deepest, channels, 1)
        self.blocks, self.lasts = nn.ModuleList(), nn.ModuleList([_last(channels, out, dropout)])
        width = channels
        for skip in reversed(skips):
            narrow = max(channels // 4, width // 2)
            more = [conv(narrow, narrow) for _ in range(convs - 1)]
            self.blocks.append(nn.Sequential(conv(width + skip, narrow), *more))
            self.lasts.append(_last(narrow, out, dropout))
            width = narrow

    def forward(self, features: Features) -> Tensor:
        *skips, deepest = self.levels(features.maps)
        x = self.top(deepest)
        total = self.lasts[0](x)
        for block, last, skip in zip(self.blocks, self.lasts[1:], reversed(skips), strict=True):
            size = skip.shape[-2:]
            x = block(torch.cat([upsample(x, size), skip], 1))
            total = upsample(total, size) + last(x)
        return total


class DeepLab(nn.Module):
    """The atrous rates of the paper, 12, 24 and 36 cells of stride 8, scaled to the stride of the last map."""

    def __init__(self, shape: FeatureShape, channels: int, out: int, dropout: float) -> None:
        super().__init__()
        rates = [max(1, round(times * 96 / shape.strides[-1])) for times in (1, 2, 3)]
        head = _replace_batchnorm(DeepLabHead(shape.channels[-1], out, rates))
        self.layers = nn.Sequential(*list(head)[:-1], _last(256, out, dropout))

    def forward(self, features: Features) -> Tensor:
        return self.layers(features.maps[-1])


class FCN(nn.Module):
    def __init__(self, shape: FeatureShape, channels: int, out: int, dropout: float) -> None:
        super().__init__()
        head = _replace_batchnorm(FCNHead(shape.channels[-1], out))
        self.layers = nn.Sequential(*list(head)[:-1], _last(shape.channels[-1] // 4, out, dropout))

    def forward(self, features: Features) -> Tensor:
        return self.layers(features.maps[-1])


class LRASPP(nn.Module):
    def __init__(self, shape: FeatureShape, channels: int, out: int, dropout: float) -> None:
        super().__init__()
        self.levels = Levels(shape, 8)
        low, high = self.levels.channels[0], self.levels.channels[-1]
        self.layers = _replace_batchnorm(LRASPPHead(low, high, out, channels))
        self.layers.high_classifier = _last(channels, out, dropout)

    def forward(self, features: Features) -> Tensor:
        maps = self.levels(features.maps)
        return self.layers({"low": maps[0], "high": maps[-1]})


def _last(channels: int, out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, out, 1))


def _replace_batchnorm(module: M) -> M:
    """Replace every BatchNorm of the module by a GroupNorm."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, group_norm(child.num_features))
        else:
            _replace_batchnorm(child)
    return module
