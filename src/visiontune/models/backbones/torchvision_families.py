"""The parts of torchvision's networks: one short function for each family."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Anatomy:
    """The parts of a network without its classifier.

    Attributes:
        trunk: stage name -> module paths, applied one after the other from the image to the last map.
        strides: stride of each map.
        embed: ``(network, x) -> (B, D)``, the pretrained classifier's input; x is the output of the last of `paths`.
        embedding_dim: D.
        neck: stages after the last map, which only the embedding needs.
        without_map: trunk stages whose output is not a feature map.
        last_conv: path of a convolution in the neck, between the last map and the pooling.
        channels_last: the trunk works on ``(B, H, W, C)``; its maps are permuted to ``(B, C, H, W)``.
    """

    trunk: dict[str, list[str]]
    strides: Sequence[int]
    embed: Callable[[Any, Tensor], Tensor]
    embedding_dim: int
    neck: dict[str, list[str]]
    without_map: Sequence[str] = ()
    last_conv: str | None = None
    channels_last: bool = False

    @property
    def paths(self) -> list[str]:
        """Modules from the image to the input of `embed`, in the order of their calls."""
        trunk = [path for paths in self.trunk.values() for path in paths]
        return trunk if self.last_conv is None else [*trunk, self.last_conv]

    @property
    def map_paths(self) -> list[str]:
        """The modules whose outputs are the feature maps."""
        return [paths[-1] for stage, paths in self.trunk.items() if stage not in self.without_map]


def _cut(network: nn.Module, name: str) -> int:
    """Remove the final Linear (and the dropout before it) of `network.name`; return the Linear's inputs."""
    part = getattr(network, name)
    if isinstance(part, nn.Linear):
        setattr(network, name, nn.Identity())
        return part.in_features
    layers = list(part.children())
    dim: int = layers.pop().in_features
    if layers and isinstance(layers[-1], nn.Dropout):
        layers.pop()
    setattr(network, name, nn.Sequential(*layers))
    return dim


def _pooled(network: Any, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def _stride(module: nn.Module) -> int:
    """The largest stride of its convolutions."""
    return max((conv.stride[0] for conv in module.modules() if isinstance(conv, nn.Conv2d)), default=1)


def _resnet(network: Any) -> Anatomy:
    """With `replace_stride_with_dilation`, layers keep the stride of the layer before."""
    layers = [f"layer{i}" for i in range(1, 5)]
    stages = {"stem": ["conv1", "bn1", "relu", "maxpool"]} | {layer: [layer] for layer in layers}
    strides = list(accumulate((_stride(getattr(network, layer)) for layer in layers), operator.mul, initial=4))[1:]
    return Anatomy(stages, strides, _pooled, _cut(network, "fc"), {}, without_map=["stem"])


def _regnet(network: Any) -> Anatomy:
    stages = {"stem": ["stem"]} | {f"block{i}": [f"trunk_output.block{i}"] for i in range(1, 5)}
    return Anatomy(stages, (4, 8, 16, 32), _pooled, _cut(network, "fc"), {}, without_map=["stem"])


def _shufflenet(network: Any) -> Anatomy:
    stages = {"stem": ["conv1", "maxpool"]} | {f"stage{i}": [f"stage{i}"] for i in (2, 3, 4)}
    return Anatomy(stages, (4, 8, 16, 32), _pooled, _cut(network, "fc"), {"head": ["conv5"]}, last_conv="conv5")


def _vgg(network: Any) -> Anatomy:
    stages: dict[str, list[str]] = {}
    paths: list[str] = []
    for name, layer in network.features.named_children():
        paths.append(f"features.{name}")
        if isinstance(layer, nn.MaxPool2d):
            stages[f"block{len(stages) + 1}"] = paths
            paths = []
    return Anatomy(stages, (2, 4, 8, 16, 32), _vgg_embed, _cut(network, "classifier"), {"fc": ["classifier"]})


def _vgg_embed(network: Any, x: Tensor) -> Tensor:
    return network.classifier(network.avgpool(x).flatten(1))


def _inception(network: Any) -> Anatomy:
    stages = {
        "stem": [
            "Conv2d_1a_3x3",
            "Conv2d_2a_3x3",
            "Conv2d_2b_3x3",
            "maxpool1",
            "Conv2d_3b_1x1",
            "Conv2d_4a_3x3",
            "maxpool2",
        ],
        "mixed5": [f"Mixed_5{letter}" for letter in "bcd"],
        "mixed6": [f"Mixed_6{letter}" for letter in "abcde"],
        "mixed7": [f"Mixed_7{letter}" for letter in "abc"],
    }
    network.dropout = nn.Identity()  # it comes before the classifier, and a head has its own dropout
    return Anatomy(stages, (8, 16, 32), _pooled, _cut(network, "fc"), {}, without_map=["stem"])


def _mobile(network: Any) -> Anatomy:
    """MobileNet and EfficientNet: a stage starts where the resolution halves; the last 1x1 convolution is the head.

    With `dilated`, the last stage of MobileNetV3 has dilated convolutions in place of its stride.
    """
    stages: dict[str, list[str]] = {}
    strides = [1]
    *trunk, (head, _) = network.features.named_children()
    for name, block in trunk:
        # torchvision marks the blocks that have a stride without dilation.
        if _stride(block) > 1 or getattr(block, "_is_cn", False):
            stages[f"stage{len(stages) + 1}"] = []
            strides.append(strides[-1] * _stride(block))
        stages[f"stage{len(stages)}"].append(f"features.{name}")
    dim, conv = _cut(network, "classifier"), f"features.{head}"
    return Anatomy(stages, strides[1:], _mobile_embed, dim, {"head": [conv, "classifier"]}, last_conv=conv)


def _mobile_embed(network: Any, x: Tensor) -> Tensor:
    return network.classifier(_pooled(network, x))


def _pairs(network: Any) -> dict[str, list[str]]:
    """ConvNeXt and Swin: (patch embedding or downsampling, blocks), four times."""
    return {f"stage{i + 1}": [f"features.{2 * i}", f"features.{2 * i + 1}"] for i in range(4)}


def _convnext(network: Any) -> Anatomy:
    dim = _cut(network, "classifier")
    return Anatomy(_pairs(network), (4, 8, 16, 32), _convnext_embed, dim, {"norm": ["classifier"]})


def _convnext_embed(network: Any, x: Tensor) -> Tensor:
    return network.classifier(F.adaptive_avg_pool2d(x, 1))


def _swin(network: Any) -> Anatomy:
    dim = _cut(network, "head")
    return Anatomy(_pairs(network), (4, 8, 16, 32), _swin_embed, dim, {"norm": ["norm"]}, channels_last=True)


def _swin_embed(network: Any, x: Tensor) -> Tensor:
    return network.norm(x.permute(0, 2, 3, 1)).mean(dim=(1, 2))


def _densenet(network: Any) -> Anatomy:
    stages = {"stem": [f"features.{name}" for name in ("conv0", "norm0", "relu0", "pool0")]}
    for i in range(1, 5):
        before = [f"features.transition{i - 1}"] if i > 1 else []
        stages[f"block{i}"] = [*before, f"features.denseblock{i}"]
    dim = _cut(network, "classifier")
    return Anatomy(stages, (4, 8, 16, 32), _densenet_embed, dim, {"norm": ["features.norm5"]}, without_map=["stem"])


def _densenet_embed(network: Any, x: Tensor) -> Tensor:
    return _pooled(network, F.relu(network.features.norm5(x)))


FAMILIES: dict[str, Callable[[Any], Anatomy]] = {
    r"(wide_)?resne(x)?t\d+": _resnet,
    r"regnet_": _regnet,
    r"shufflenet_v2": _shufflenet,
    r"vgg\d+": _vgg,
    r"inception_v3": _inception,
    r"(mobilenet|efficientnet)_": _mobile,
    r"convnext_": _convnext,
    r"swin_": _swin,
    r"densenet\d+": _densenet,
}


def family(name: str) -> Callable[[Any], Anatomy] | None:
    """The function that builds the `Anatomy` of the network `name`; None for an unknown family."""
    return next((build_anatomy for pattern, build_anatomy in FAMILIES.items() if re.match(pattern, name)), None)
