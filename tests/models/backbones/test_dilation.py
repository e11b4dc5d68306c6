"""Dilated networks and chosen layers: the maps that torchvision's segmenters and detectors read."""

from typing import Any

import pytest
import torch

from visiontune.errors import UserError
from visiontune.models.backbones import build

DILATED_RESNET = {"replace_stride_with_dilation": [False, True, True]}
MOBILE_LAYERS = {"return_layers": ["features.16", "features.4"]}


@pytest.mark.parametrize(
    ("name", "options", "channels", "strides"),
    [
        ("resnet50", DILATED_RESNET, [256, 512, 1024, 2048], [4, 8, 8, 8]),
        ("mobilenet_v3_large", {"dilated": True}, [16, 24, 40, 112, 160], [2, 4, 8, 16, 16]),
        ("mobilenet_v3_large", {"dilated": True} | MOBILE_LAYERS, [40, 960], [8, 16]),
        ("mobilenet_v3_large", MOBILE_LAYERS, [40, 960], [8, 32]),
        pytest.param("inception_v3", {"return_layers": ["Mixed_5b", "Mixed_6e", "Mixed_7c"]}, [256, 768, 2048],
                     [8, 16, 32], marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_maps_have_these_channels_and_strides(
    name: str, options: dict[str, Any], channels: list[int], strides: list[int]
) -> None:
    backbone, _ = build(name, weights=None, **options)
    assert (backbone.channels, list(backbone.strides)) == (channels, strides)
    with torch.no_grad():
        maps = backbone.eval()(torch.rand(1, 3, 96, 160)).maps
    assert [m.shape[1] for m in maps] == channels
    if name != "inception_v3":  # its convolutions are not padded
        assert [(m.shape[2], m.shape[3]) for m in maps] == [(-(-96 // s), -(-160 // s)) for s in strides]
    staged = [id(p) for _, stage in backbone.stages() for p in stage.parameters()]
    assert sorted(staged) == sorted(id(p) for p in backbone.model.parameters())


@pytest.mark.parametrize(
    ("name", "layers"), [("mobilenet_v3_large", ["features.4", "features.16"]), ("resnet18", ["layer2"])]
)
def test_the_maps_and_the_embedding_are_those_of_the_whole_network(name: str, layers: list[str]) -> None:
    whole, _ = build(name, weights=None)
    part, _ = build(name, weights=None, return_layers=layers)
    part.load_state_dict(whole.state_dict())
    image = torch.rand(2, 3, 64, 64)
    outputs: dict[str, Any] = {}
    for layer in layers:
        whole.model.get_submodule(layer).register_forward_hook(lambda _, __, x, layer=layer: outputs.update({layer: x}))
    with torch.no_grad():
        expected, features = whole.eval()(image), part.eval()(image)
        assert torch.equal(features.embedding, expected.embedding)
    for feature_map, layer in zip(features.maps, layers, strict=True):
        assert torch.equal(feature_map, outputs[layer])


@pytest.mark.parametrize("layers", [["features.4", "features.99"], [], ["classifier"]])
def test_layers_that_do_not_exist(layers: list[str]) -> None:
    with pytest.raises(UserError, match=r"backbone.return_layers=\[.*expected some of the layers features.0, .*write"):
        build("mobilenet_v2", weights=None, return_layers=layers)
