"""Decoders: from a backbone's maps to one map of fine resolution, for `segmentation` and `dense`.

| decoder | reads | stride of its output |
| --- | --- | --- |
| fpn | all maps from stride 2 on, top-down, one convolution per level; light and quick to learn | 2 |
| unet | the same with two convolutions per level (Ronneberger et al. 2015, arXiv:1505.04597) | 2 |
| deeplabv3 | the last map, with torchvision's atrous pyramid (Chen et al. 2017, arXiv:1706.05587) | the last map's |
| fcn | the last map (Long et al. 2015, arXiv:1411.4038), torchvision's | the last map's |
| lraspp | the last map, and one of stride 8 (Howard et al. 2019, arXiv:1905.02244), torchvision's; the lightest | 8 |

All of them use GroupNorm, also in torchvision's parts: it does not depend on the size of the batch. torchvision's
pretrained decoders need BatchNorm, which deeplabv3 cannot train with batches of one image.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.models.segmentation.lraspp import LRASPPHead
from torchvision.ops.misc import Conv2dNormActivation

from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads.class_rows import ClassRows


def build_decoder(
    name: str,
    shape: FeatureShape,
    channels: int,
    out: int,
    dropout: float = 0.0,
    norm: str = "group",
    atrous_rates: Sequence[int] | None = None,
) -> "Decoder":
    """A module from `Features` to a map ``(B, out, h, w)``.

    Args:
        channels: width of lraspp, or of fpn and unet at the coarsest map; they halve it at each finer map, down to a
            quarter. Not used by deeplabv3 and fcn.
        out: channels of the output, which has no activation.
        dropout: 0..1, of whole channels before the last layer. deeplabv3 and fcn also have torchvision's dropout of
            single values: 0.5 after the atrous pyramid, and 0.1 before the last layer.
        norm: "group" or "batch".
        atrous_rates: dilations of deeplabv3's convolutions; None for `scale_rates`.

    Raises:
        UserError: an unknown decoder or norm, or wrong rates, or rates for another decoder.
    """
    decoders: dict[str, Callable[..., Decoder]] = {
        "fpn": TopDown,
        "unet": partial(TopDown, convs=2),
        "deeplabv3": partial(DeepLab, atrous_rates=atrous_rates),
        "fcn": FCN,
        "lraspp": LRASPP,
    }
    if name not in decoders:
        raise UserError(f"decoder={name}: write one of {', '.join(decoders)}")
    if norm not in NORMS:
        raise UserError(f"norm={norm}: write one of {', '.join(NORMS)}")
    if atrous_rates is not None and not (
        isinstance(atrous_rates, Sequence) and atrous_rates and all(isinstance(r, int) and r > 0 for r in atrous_rates)
    ):
        raise UserError(
            f"atrous_rates={atrous_rates}: expected whole numbers above 0; write e.g. atrous_rates=[12,24,36]"
        )
    if atrous_rates is not None and name != "deeplabv3":
        raise UserError(
            f"atrous_rates={list(atrous_rates)} has no effect on decoder={name}: write atrous_rates=null, or "
            "decoder=deeplabv3"
        )
    return decoders[name](shape, channels, out, dropout, NORMS[norm])


class Decoder(nn.Module):
    """From `Features` to one map.

    Attributes:
        output_layers: names of the convolutions whose outputs are summed to the map, with one row per output channel.
        rows: the layout of the parameters of these layers.
        is_scaled: whether the width of its layers follows that of a backbone's map.
    """

    output_layers: Sequence[str]
    rows = ClassRows()
    is_scaled = False


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups (Wu and He 2018, arXiv:1803.08494), or fewer, so that each has the same 4 or more channels."""
    groups = next((n for n in (32, 16, 8, 4, 2) if channels % n == 0 and channels >= 4 * n), 1)
    return nn.GroupNorm(groups, channels)


Norm = Callable[[int], nn.Module]
NORMS: dict[str, Norm] = {"group": group_norm, "batch": nn.BatchNorm2d}
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

    def __init__(self, shape: FeatureShape, min_stride: int, norm: Norm = group_norm) -> None:
        super().__init__()
        self.first = next((i for i, stride in enumerate(shape.strides) if stride >= min_stride), len(shape.strides) - 1)
        self.channels = shape.channels[self.first :]
        self.finer = nn.ModuleList()
        stride = shape.strides[self.first]
        while stride >= 2 * min_stride:
            stride //= 2
            width = max(32, self.channels[0] // 2)
            up = nn.ConvTranspose2d(self.channels[0], width, 2, stride=2)
            self.finer.append(nn.Sequential(up, norm(width), nn.GELU()))
            self.channels = [width, *self.channels]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = maps[self.first :]
        for step in self.finer:
            maps = [step(maps[0]), *maps]
        return maps


class TopDown(Decoder):
    """From the coarsest map to the finest, narrower at each level. The output is the sum of one output per level.

    The sum is that of FCN (Long et al. 2015): with it, all levels learn from the first step. On 92 images of CamVid the
    mIoU was 0.56. The same U-Net without the sum had 0.41, and a sum of features at stride 4 had 0.50.
    """

    def __init__(
        self, shape: FeatureShape, channels: int, out: int, dropout: float, norm: Norm, convs: int = 1
    ) -> None:
        super().__init__()
        conv = partial(Conv2dNormActivation, norm_layer=norm)
        self.levels = Levels(shape, 2, norm)
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
        self.output_layers = [f"lasts.{i}.1" for i in range(len(self.lasts))]

    def forward(self, features: Features) -> Tensor:
        *skips, deepest = self.levels(features.maps)
        x = self.top(deepest)
        total = self.lasts[0](x)
        for block, last, skip in zip(self.blocks, self.lasts[1:], reversed(skips), strict=True):
            size = skip.shape[-2:]
            x = block(torch.cat([upsample(x, size), skip], 1))
            total = upsample(total, size) + last(x)
        return total


class DeepLab(Decoder):
    output_layers = ("layers.4.1",)

    def __init__(
        self,
        shape: FeatureShape,
        channels: int,
        out: int,
        dropout: float,
        norm: Norm,
        atrous_rates: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        rates = scale_rates(shape.strides[-1]) if atrous_rates is None else atrous_rates
        head = _replace_batchnorm(DeepLabHead(shape.channels[-1], out, rates), norm)
        self.layers = nn.Sequential(*list(head)[:-1], _last(256, out, dropout))

    def forward(self, features: Features) -> Tensor:
        return self.layers(features.maps[-1])


def scale_rates(stride: int) -> list[int]:
    """The atrous rates of the paper, 12, 24 and 36 cells of stride 8, scaled to the stride of a map."""
    return [max(1, round(times * 96 / stride)) for times in (1, 2, 3)]


class FCN(Decoder):
    output_layers = ("layers.4.1",)
    is_scaled = True

    def __init__(self, shape: FeatureShape, channels: int, out: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.layers = fcn_layers(shape.channels[-1], out, dropout, norm)

    def forward(self, features: Features) -> Tensor:
        return self.layers(features.maps[-1])


def fcn_layers(inputs: int, out: int, dropout: float, norm: Norm) -> nn.Sequential:
    """torchvision's FCN head for a map of `inputs` channels; its last convolution is `4.1`."""
    head = _replace_batchnorm(FCNHead(inputs, out), norm)
    return nn.Sequential(*list(head)[:-1], _last(inputs // 4, out, dropout))


class LRASPP(Decoder):
    output_layers = ("layers.low_classifier", "layers.high_classifier.1")

    def __init__(self, shape: FeatureShape, channels: int, out: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.levels = Levels(shape, 8, norm)
        low, high = self.levels.channels[0], self.levels.channels[-1]
        self.layers: Any = _replace_batchnorm(LRASPPHead(low, high, out, channels), norm)
        self.layers.high_classifier = _last(channels, out, dropout)

    def forward(self, features: Features) -> Tensor:
        maps = self.levels(features.maps)
        return self.layers({"low": maps[0], "high": maps[-1]})


def _last(channels: int, out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, out, 1))


def _replace_batchnorm(module: M, norm: Norm) -> M:
    """Replace every BatchNorm of the module by a `norm`."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, norm(child.num_features))
        else:
            _replace_batchnorm(child, norm)
    return module
