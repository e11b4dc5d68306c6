"""Every decoder on every sort of backbone: the right map, trainable from one image, no statistics kept."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.segmentation.lraspp import LRASPPHead

from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads.decoders import Decoder, Levels, build_decoder, group_norm, upsample

SHAPES = {
    "resnet": FeatureShape([16, 24, 32, 48], [4, 8, 16, 32], 48),
    "efficientnet": FeatureShape([8, 16, 24, 32, 48], [2, 4, 8, 16, 32], 48),
    "small_cnn": FeatureShape([8, 16, 24], [2, 4, 8], 24),
    "vit": FeatureShape([48], [16], 48),
}
NAMES = ["fpn", "unet", "deeplabv3", "fcn", "lraspp"]
STRIDES = {"fpn": 2, "unet": 2, "lraspp": 8}  # of the result; the others keep the last map's


def features(shape: FeatureShape, height: int, width: int, count: int = 2) -> Features:
    """Random maps of images of this size, sides rounded up as padded convolutions do."""
    draw = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(count, channels, -(-height // stride), -(-width // stride), generator=draw).requires_grad_()
        for channels, stride in zip(shape.channels, shape.strides, strict=True)
    ]
    return Features(maps, lambda: torch.zeros(count, shape.embedding_dim), (height, width))


def build(name: str, shape: FeatureShape, dropout: float = 0.0, **options: Any) -> Decoder:
    torch.manual_seed(0)
    return build_decoder(name, shape, 16, 5, dropout, **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", SHAPES)
def test_gives_a_map_of_its_stride(name: str, family: str) -> None:
    shape = SHAPES[family]
    stride = STRIDES.get(name, shape.strides[-1])
    model = build(name, shape)
    given = features(shape, 64, 96)
    out = model(given)
    assert out.shape == (2, 5, 64 // stride, 96 // stride)
    out.square().sum().backward()
    read = [m.grad is not None and bool(m.grad.any()) for m in given.maps]
    levels = [s for s in shape.strides if s >= STRIDES.get(name, 64)] or shape.strides[-1:]
    wanted = [levels[0], shape.strides[-1]] if name == "lraspp" else levels
    assert read == [stride in wanted for stride in shape.strides]
    assert [path for path, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_sides_that_the_strides_do_not_divide(name: str) -> None:
    shape = SHAPES["resnet"]
    out = build(name, shape)(features(shape, 50, 90))
    stride = max(4, STRIDES.get(name, 32))
    expected = (25, 45) if name in ("fpn", "unet") else (-(-50 // stride), -(-90 // stride))
    # The map of stride 2 is made from that of stride 4, so it has an even number of cells.
    assert [abs(a - b) <= 1 for a, b in zip(out.shape[2:], expected, strict=True)] == [True, True]


@pytest.mark.parametrize("name", NAMES)
def test_one_small_image_trains_and_nothing_is_remembered_of_it(name: str) -> None:
    model = build(name, SHAPES["resnet"]).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    given = features(SHAPES["resnet"], 32, 32, count=1)  # one cell of stride 32
    out = model(given)
    out.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert list(model.buffers()) == []
    torch.testing.assert_close(model.eval()(given), out)
    # An image's result does not depend on its neighbours in the batch.
    more = Features([torch.cat([m, torch.randn_like(m)]) for m in given.maps], lambda: given.embedding, (32, 32))
    torch.testing.assert_close(model(more)[:1], out, rtol=1e-4, atol=1e-5)


def test_a_plain_map_becomes_a_pyramid() -> None:
    levels = Levels(FeatureShape([48], [16], 48), 4)
    maps = levels([torch.randn(1, 48, 4, 6)])
    assert [tuple(m.shape) for m in maps] == [(1, 32, 16, 24), (1, 32, 8, 12), (1, 48, 4, 6)]
    assert levels.channels == [32, 32, 48]


@pytest.mark.parametrize(("stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9]), (64, [2, 3, 4])])
def test_atrous_rates_follow_the_stride(stride: int, rates: list[int]) -> None:
    model = build("deeplabv3", FeatureShape([8], [stride], 8))
    found = {m.dilation[0] for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)}
    assert sorted(found - {1}) == rates


@pytest.mark.parametrize("name", ["fpn", "unet"])
def test_every_level_has_a_say_from_the_start(name: str) -> None:
    shape, given = SHAPES["small_cnn"], features(SHAPES["small_cnn"], 32, 32)
    model: Any = build(name, shape)
    seen: list[Tensor] = []
    for last in model.lasts:
        last.register_forward_hook(lambda _, __, out: seen.append(out))
    out = model(given)
    assert [tuple(part.shape[2:]) for part in seen] == [(4, 4), (8, 8), (16, 16)]
    coarse, middle, fine = seen
    torch.testing.assert_close(out, upsample(upsample(coarse, (8, 8)) + middle, (16, 16)) + fine)
    convolutions = [m for m in model.blocks.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == (2 if name == "fpn" else 4)
    assert [m.out_channels for m in convolutions][-1] == 4  # from 16 at the coarsest


def test_lraspp_is_torchvisions() -> None:
    shape, given = SHAPES["resnet"], features(SHAPES["resnet"], 64, 64)
    model = build("lraspp", shape)
    theirs = LRASPPHead(24, 48, 5, 16)
    theirs.cbr[1] = group_norm(16)
    ours = {k.removeprefix("layers.").replace("classifier.1.", "classifier."): v for k, v in model.state_dict().items()}
    theirs.load_state_dict(ours)
    torch.testing.assert_close(model(given), theirs({"low": given.maps[1], "high": given.maps[-1]}))


@pytest.mark.parametrize("name", NAMES)
def test_dropout_takes_whole_channels_before_the_last_layer(name: str) -> None:
    model = build(name, SHAPES["small_cnn"], dropout=0.25)
    drop, *_ = drops = [m for m in model.modules() if isinstance(m, nn.Dropout2d)]
    assert {m.p for m in drops} == {0.25} and len(drops) == (3 if name in ("fpn", "unet") else 1)
    seen: list[Tensor] = []
    drop.register_forward_hook(lambda _, __, out: seen.append(out))
    model.train()(features(SHAPES["small_cnn"], 32, 32))
    gone = (seen[0] == 0).flatten(2).all(2)
    assert 0 < int(gone.sum()) < gone.numel()


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (128, 32), (64, 16), (24, 4), (20, 4), (6, 1), (3, 1)])
def test_groups_of_at_least_four_channels(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_upsampling_is_bilinear_between_squares() -> None:
    x = torch.tensor([[[[0.0, 1.0]]]])
    assert upsample(x, (1, 4)).flatten().tolist() == pytest.approx([0, 0.25, 0.75, 1])
    assert upsample(x, (1, 2)) is x


def test_unknown_decoder() -> None:
    with pytest.raises(UserError, match="decoder=psp: write one of fpn, unet, deeplabv3, fcn, lraspp"):
        build("psp", SHAPES["vit"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_batchnorm_in_place_of_every_groupnorm(name: str, family: str) -> None:
    model = build(name, SHAPES[family], norm="batch").train()
    kinds = [type(m) for m in model.modules() if isinstance(m, nn.GroupNorm | nn.BatchNorm2d)]
    expected = [type(m) for m in build(name, SHAPES[family]).modules() if isinstance(m, nn.GroupNorm)]
    assert kinds == [nn.BatchNorm2d] * len(expected)
    model(features(SHAPES[family], 64, 64))
    means = [m.running_mean for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(mean is not None and bool(mean.any()) for mean in means)


@pytest.mark.parametrize("name", NAMES)
def test_output_layers_are_the_convolutions_whose_outputs_are_summed(name: str) -> None:
    model, shape = build(name, SHAPES["efficientnet"]), SHAPES["efficientnet"]
    layers: list[Any] = [model.get_submodule(layer) for layer in model.output_layers]
    assert [layer.out_channels for layer in layers] == [5] * len(layers)
    for layer in layers:
        nn.init.zeros_(layer.weight[2:3])
        nn.init.zeros_(layer.bias[2:3])
    out = model(features(shape, 64, 64))
    assert not out[:, 2].any() and out[:, [0, 1, 3, 4]].flatten(2).any(2).all()


def test_atrous_rates_and_norms_from_the_config() -> None:
    model = build("deeplabv3", SHAPES["resnet"], atrous_rates=[2, 5])
    rates = [m.dilation[0] for m in model.modules() if isinstance(m, nn.Conv2d) and m.dilation != (1, 1)]
    assert rates == [2, 5]
    for wrong in ([], [0, 1], [1.5], 12):
        with pytest.raises(UserError, match=r"atrous_rates=.*expected whole numbers above 0; write e.g."):
            build("deeplabv3", SHAPES["resnet"], atrous_rates=wrong)
    for name in ("fcn", "fpn", "unet", "lraspp"):
        with pytest.raises(UserError, match=rf"atrous_rates=\[2, 5\] has no effect on decoder={name}: write atrous_ra"):
            build(name, SHAPES["resnet"], atrous_rates=[2, 5])
    with pytest.raises(UserError, match="norm=layer: write one of group, batch"):
        build("fpn", SHAPES["resnet"], norm="layer")
