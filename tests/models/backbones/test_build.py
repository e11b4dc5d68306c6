"""Names, libraries and options; what users get wrong; what later steps rely on: copies, export, precision."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from visiontune.errors import UserError
from visiontune.models.backbones import build


def test_library_is_chosen_by_name() -> None:
    assert build("resnet18", weights=None)[0].library == "torchvision"
    assert build("resnet18", weights=None, library="timm")[0].library == "timm"
    assert build("resnet10t", weights=None)[0].library == "timm"
    assert build("small_cnn")[0].library == "small_cnn"


def test_unknown_names_and_options_say_what_is_near() -> None:
    where = "no such network in torchvision, timm, transformers or visiontune"
    with pytest.raises(UserError, match=rf"backbone.name=resnet5O: {where}; near it: resnet50 \(torchvision\), "):
        build("resnet5O")
    with pytest.raises(UserError, match=r"resnet5O: no such network in timm; near it: resnet50 \(timm\)"):
        build("resnet5O", library="timm")
    with pytest.raises(UserError, match=r"resnet18.no_such_tag cannot be built .*Invalid pretrained tag"):
        build("resnet18.no_such_tag", weights=None)
    with pytest.raises(UserError, match=r"resnet18 cannot be built with {'colour': 1}"):
        build("resnet18", weights=None, colour=1)
    with pytest.raises(UserError, match=r"convnext_atto.*colour"):
        build("convnext_atto", weights=None, colour=1)
    with pytest.raises(UserError, match=r"colour.*write one of widths, depth"):
        build("small_cnn", colour=1)
    with pytest.raises(UserError, match="norm=layer is not one of batch, group, none"):
        build("small_cnn", norm="layer")
    for options in ({"widths": [8, 0]}, {"widths": "wide"}, {"widths": 8}, {"depth": 1.5}):
        with pytest.raises(UserError, match=r"expected a list of whole numbers .* backbone.widths=\[32,64,128\]"):
            build("small_cnn", **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="small_cnn has no pretrained weights"):
        build("small_cnn", weights="default")
    with pytest.raises(UserError, match=r"data.image_size=100x64 is no multiple of the 32-pixel.*\[96,64\]"):
        build("vit_b_32", weights=None, image_size=[100, 64])
    with pytest.raises(UserError, match=r"data.image_size=64 is too small for inception_v3; write e.g.*=96"):
        build("inception_v3", weights=None, image_size=64, init_weights=False)
    with pytest.raises(UserError, match=r"coat_lite_tiny shares layers between its stages"):
        build("coat_lite_tiny", weights=None)


def test_timm_networks_without_a_grouping_give_their_children() -> None:
    backbone, _ = build("pit_ti_224", weights=None)
    names = ["stem", "transformers_0", "transformers_1", "transformers_2", "norm"]
    assert [name for name, _ in backbone.stages()] == names


def test_normalisation_is_inside_and_follows_the_weights() -> None:
    resnet, _ = build("resnet18", weights=None)
    torch.testing.assert_close(resnet.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(resnet.std.flatten(), torch.tensor([0.229, 0.224, 0.225]))
    assert {"mean", "std"} <= set(resnet.state_dict())
    four, _ = build("resnet18", weights=None, in_channels=4)
    torch.testing.assert_close(four.mean.flatten(), torch.tensor([0.485, 0.456, 0.406, 0.485]))
    lite, _ = build("tf_efficientnet_lite0", weights=None)
    assert lite.mean.flatten().tolist() == lite.std.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("init", ["kaiming_normal", "kaiming_uniform", "xavier_uniform", "orthogonal"])
def test_small_cnn_options(norm: str, init: str) -> None:
    torch.manual_seed(0)
    backbone, _ = build(
        "small_cnn", in_channels=1, widths=[64, 12], depth=1, norm=norm, pool="avg", activation="silu", init=init
    )
    assert (backbone.channels, backbone.strides, backbone.embedding_dim) == ([64, 12], [2, 4], 12)
    kinds = {type(m) for m in backbone.modules()}
    assert nn.AvgPool2d in kinds and nn.SiLU in kinds
    assert (nn.BatchNorm2d in kinds, nn.GroupNorm in kinds) == (norm == "batch", norm == "group")
    weight = backbone.get_parameter("model.block1.conv1.weight").detach()
    fan_in, fan_out = 9, 9 * 64
    if init == "orthogonal":
        gram = weight.flatten(1).T @ weight.flatten(1)
        torch.testing.assert_close(gram, torch.eye(9), atol=1e-5, rtol=0)
    else:
        variance = 2 / (fan_in + fan_out) if init == "xavier_uniform" else 2 / fan_out
        assert weight.std().item() == pytest.approx(math.sqrt(variance), rel=0.15)
    names = [name for name, _ in backbone.named_parameters()]
    assert ("model.block1.conv1.bias" in names) == (norm == "none")
    assert [name for name, _ in backbone.stages()] == ["block1", "block2"]


def test_small_cnn_learns() -> None:
    """Bars across against bars along, by 30 steps."""
    torch.manual_seed(0)
    backbone, _ = build("small_cnn", in_channels=1, widths=[8, 16], depth=1)
    linear = nn.Linear(backbone.embedding_dim, 2)
    optimizer = torch.optim.Adam([*backbone.parameters(), *linear.parameters()], lr=0.01)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(2, (32,))
        images = torch.rand(32, 1, 16, 1).round().expand(32, 1, 16, 16)
        return torch.where(labels.view(-1, 1, 1, 1) == 1, images, images.transpose(2, 3)), labels

    for _ in range(30):
        images, labels = batch()
        loss = nn.functional.cross_entropy(linear(backbone(images).embedding), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = batch()
    with torch.no_grad():
        assert (linear(backbone.eval()(images).embedding).argmax(1) == labels).float().mean() >= 0.9


def test_embedding_is_computed_only_when_asked_for() -> None:
    for name, late in {"tf_efficientnet_lite0": "conv_head", "mobilenet_v2": "features.18"}.items():
        backbone, _ = build(name, weights=None)
        calls: list[str] = []
        backbone.model.get_submodule(late).register_forward_hook(lambda *_, calls=calls: calls.append("run"))
        features = backbone.eval()(torch.rand(1, 3, 32, 32))
        assert calls == []
        assert features.embedding is features.embedding
        assert calls == ["run"]


def test_a_frozen_stage_keeps_parameters_and_buffers() -> None:
    backbone, _ = build("tf_efficientnet_lite0", weights=None)
    backbone.train()
    _, frozen = backbone.stages()[0]
    frozen.eval().requires_grad_(False)
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    backbone(torch.rand(2, 3, 64, 64)).embedding.square().sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    _, unfrozen = backbone.stages()[1]
    assert unfrozen.training and not frozen.training


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "tf_efficientnet_lite0"])
def test_a_copy_is_independent_and_the_input_unchanged(name: str) -> None:
    backbone, _ = build(name, weights=None)
    image = torch.rand(1, 3, 64, 64)
    before = image.clone()
    twin = copy.deepcopy(backbone).eval()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
        assert backbone.eval()(image).embedding.std() > 0
        assert twin(image).embedding.std() == 0
    assert torch.equal(image, before)


class Embed(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.backbone(image)
        return features.maps[-1], features.embedding


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "vit_tiny_patch16_224", "small_cnn"])
def test_export_channels_last_and_autocast_agree(name: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"depth": 1} if name.startswith("vit") else {}
    model = Embed(build(name, weights=None, image_size=32, **options)[0]).eval()
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(image)
        exported = torch.export.export(model, (image,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        other = torch.rand(3, 3, 32, 32)
        torch.testing.assert_close(exported.module()(other), model(other), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(image.to(memory_format=torch.channels_last)), expected, atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(image)[1].float(), expected[1], atol=0.1, rtol=0.1)
