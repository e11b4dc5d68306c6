"""The parts of torchvision's networks: one short function for each family."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Anatomy:
    """The parts of a network without its classifier.

    Attributes:
        trunk: stage name -> module paths, applied one after the other from the image to the last map.
        strides: stride of each map.
        embed: ``(network, last map of the trunk) -> (B, D)``, the pretrained classifier's input.
        embedding_dim: D.
        neck: stages after the last map, which only `embed` runs.
        without_map: trunk stages whose output is not a feature map.
        channels_last: the trunk works on ``(B, H, W, C)``; its maps are permuted to ``(B, C, H, W)``.
    """

    trunk: dict[str, list[str]]
    strides: Sequence[int]
    embed: Callable[[Any, Tensor], Tensor]
    embedding_dim: int
    neck: dict[str, list[str]]
    without_map: Sequence[str] = ()
    channels_last: bool = False


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


def _resnet(network: Any) -> Anatomy:
    stages = {"stem": ["conv1", "bn1", "relu", "maxpool"]} | {f"layer{i}": [f"layer{i}"] for i in range(1, 5)}
    return Anatomy(stages, (4, 8, 16, 32), _pooled, _cut(network, "fc"), {}, without_map=["stem"])


def _regnet(network: Any) -> Anatomy:
    stages = {"stem": ["stem"]} | {f"block{i}": [f"trunk_output.block{i}"] for i in range(1, 5)}
    return Anatomy(stages, (4, 8, 16, 32), _pooled, _cut(network, "fc"), {}, without_map=["stem"])


def _shufflenet(network: Any) -> Anatomy:
    stages = {"stem": ["conv1", "maxpool"]} | {f"stage{i}": [f"stage{i}"] for i in (2, 3, 4)}
    return Anatomy(stages, (4, 8, 16, 32), _shufflenet_embed, _cut(network, "fc"), {"head": ["conv5"]})


def _shufflenet_embed(network: Any, x: Tensor) -> Tensor:
    return _pooled(network, network.conv5(x))


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
    """MobileNet and EfficientNet: a stage starts where the resolution halves; the last 1x1 convolution is the head."""
    stages: dict[str, list[str]] = {}
    *trunk, (head, _) = network.features.named_children()
    for name, block in trunk:
        if any(isinstance(layer, nn.Conv2d) and layer.stride == (2, 2) for layer in block.modules()):
            stages[f"stage{len(stages) + 1}"] = []
        stages[f"stage{len(stages)}"].append(f"features.{name}")
    dim = _cut(network, "classifier")
    return Anatomy(stages, (2, 4, 8, 16, 32), _mobile_embed, dim, {"head": [f"features.{head}", "classifier"]})


def _mobile_embed(network: Any, x: Tensor) -> Tensor:
    return network.classifier(_pooled(network, network.features[-1](x)))


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
