"""The pyramid: which levels a backbone gives, where their cells lie, and what is refused."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator

from visiontune.errors import UserError
from visiontune.models.features import FeatureShape
from visiontune.models.heads.pyramid import Pyramid

RESNET = FeatureShape([8, 16, 24, 32], [4, 8, 16, 32], 32)
VIT = FeatureShape([24], [16], 24)


def maps(shape: FeatureShape, height: int, width: int, count: int = 2) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    sizes = [(math.ceil(height / s), math.ceil(width / s)) for s in shape.strides]
    return [torch.randn(count, c, *size, generator=random) for c, size in zip(shape.channels, sizes, strict=True)]


@pytest.mark.parametrize(
    ("shape", "min_stride", "size", "strides"),
    [
        (RESNET, 8, (90, 130), [8, 16, 32, 64, 128]),
        (RESNET, 4, (90, 130), [4, 8, 16, 32, 64, 128]),
        (FeatureShape([8, 16], [2, 4], 16), 8, (64, 64), [4, 8, 16]),  # ends before stride 8
        (FeatureShape([8, 16, 16], [2, 8, 8], 16), 8, (64, 64), [8, 16, 32]),
        (VIT, 8, (80, 112), [8, 16, 32, 64, 128]),
        (VIT, 4, (32, 16), [4, 8, 16, 32, 64, 128]),
        (FeatureShape([24], [14], 24), 8, (84, 126), [7, 14, 28, 56, 112]),
        (FeatureShape([24], [14], 24), 4, (84, 126), [3.5, 7, 14, 28, 56, 112]),
        (FeatureShape([24, 24], [8, 8], 24), 8, (64, 64), [8, 16, 32, 64]),
        (FeatureShape([24], [32], 24), 4, (96, 64), [8, 16, 32, 64, 128, 256]),
    ],
)
def test_levels_are_of_the_strides_that_are_said(
    shape: FeatureShape, min_stride: int, size: tuple[int, int], strides: list[float]
) -> None:
    pyramid = Pyramid(shape, channels=16, min_stride=min_stride)
    assert pyramid.strides == strides
    assert pyramid.pooled == len(strides) - 2
    levels = pyramid(maps(shape, *size))
    expected = [(2, 16, math.ceil(size[0] / stride), math.ceil(size[1] / stride)) for stride in strides]
    assert [tuple(level.shape) for level in levels] == expected


def test_pooling_adds_one_level_that_is_every_second_cell() -> None:
    pyramid = Pyramid(RESNET, channels=16, min_stride=8, extra="pool")
    levels = pyramid(maps(RESNET, 96, 128))
    assert pyramid.strides == [8, 16, 32, 64]
    assert pyramid.pooled == 3
    assert torch.equal(levels[3], levels[2][:, :, ::2, ::2])


@pytest.mark.parametrize("shape", [RESNET, VIT])
def test_a_image_is_the_same_alone_and_in_a_batch(shape: FeatureShape) -> None:
    torch.manual_seed(0)
    pyramid = Pyramid(shape, channels=16).train()
    whole = maps(shape, 64, 64, count=4)
    together, alone = pyramid(whole), pyramid([part[1:2] for part in whole])
    for level, single in zip(together, alone, strict=True):
        torch.testing.assert_close(level[1:2], single)


def test_anchors_lie_at_the_nominal_strides_where_a_side_is_no_multiple_of_them() -> None:
    pyramid = Pyramid(RESNET, channels=16)
    generator = AnchorGenerator(tuple((stride,) for stride in pyramid.strides), ((1.0,),) * 5)
    anchors, counts = pyramid.anchors(generator, pyramid(maps(RESNET, 240, 320)))
    assert counts == [30 * 40, 15 * 20, 8 * 10, 4 * 5, 2 * 3]
    stride_32 = anchors[1500:1580]
    assert (stride_32[:, :2] + stride_32[:, 2:]).div(2)[-1].tolist() == [9 * 32, 7 * 32]
    assert anchors.dtype == torch.float32


@pytest.mark.parametrize("shape", [FeatureShape([], [], 512), FeatureShape([512], [64], 512)])
def test_backbones_without_fitting_maps_are_refused_with_what_fits(shape: FeatureShape) -> None:
    with pytest.raises(UserError, match=r"the strides \[.*a CNN, a Swin, or a ViT.*backbone.name=resnet50"):
        Pyramid(shape)
