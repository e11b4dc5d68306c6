"""A backbone with fewer channels than its library builds."""

from typing import Any

import pytest
import torch
from torch import nn

from visiontune.errors import UserError
from visiontune.models.backbones import build
from visiontune.models.backbones.narrowing import list_shapes

SHAPES = {"block1.conv1": "6x3x3x3", "block1.norm1": "6", "block2.conv1": "5x6x3x3", "block2.norm1": "5"}


def small(**more: Any) -> Any:
    torch.manual_seed(0)
    return build("small_cnn", widths=[8, 8], depth=1, **more)[0]


def test_weights_are_cut_and_widths_measured() -> None:
    narrow, wide = small(shapes=SHAPES), small()
    assert narrow.channels == [6, 5] and narrow.embedding_dim == 5
    assert narrow.shape.channels == [6, 5] and narrow.training
    assert torch.equal(narrow.model.block2.conv1.weight, wide.model.block2.conv1.weight[:5, :6])
    assert narrow.model.block1.norm1.num_features == 6 and narrow.model.block1.norm1.running_var.shape == (6,)
    assert (narrow.model.block2.conv1.in_channels, narrow.model.block2.conv1.out_channels) == (6, 5)
    assert list_shapes(narrow.model) == list_shapes(wide.model) | SHAPES
    assert [name for name, _ in narrow.stages()] == [name for name, _ in wide.stages()]
    assert sum(p.numel() for _, s in narrow.stages() for p in s.parameters()) == (6 * 27 + 12) + (5 * 6 * 9 + 10)


def test_every_kind_of_layer() -> None:
    """Depthwise and grouped convolutions, linear layers, layer norms and scales of ConvNeXt."""
    plain, _ = build("convnext_tiny", weights=None)
    whole = list_shapes(plain.model)
    assert whole["features.1.0.layer_scale"] == "96x1x1" and whole["features.1.0.block.0"] == "96x1x7x7"
    halves = {
        "features.0.0": "48x3x4x4",
        "features.0.1": "48",
        **{
            f"features.1.{i}.{name}": shape
            for i in range(3)
            for name, shape in {
                "block.0": "48x1x7x7",
                "block.2": "48",
                "block.3": "384x48",
                "block.5": "48x384",
                "layer_scale": "48x1x1",
            }.items()
        },
        "features.2.0": "48",
        "features.2.1": "192x48x2x2",
    }
    narrow, _ = build("convnext_tiny", weights=None, shapes=halves, image_size=64)
    assert narrow.channels == [48, *plain.channels[1:]]
    conv: Any = narrow.model.get_submodule("features.1.0.block.0")
    assert isinstance(conv, nn.Conv2d) and (conv.groups, conv.in_channels, conv.out_channels) == (48, 48, 48)


@pytest.mark.parametrize(
    ("path", "shape"), [("block1.conv1", "9x3x3x3"), ("block1.conv1", "6x3"), ("block7.conv1", "6x3x3x3")]
)
def test_shapes_of_another_network_are_refused(path: str, shape: str) -> None:
    with pytest.raises(UserError, match=rf"backbone.shapes has {path}: {shape}, and small_cnn has (8x3x3x3|none)"):
        small(shapes={path: shape})
