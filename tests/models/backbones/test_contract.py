"""Every shipped backbone, and a network of each further family, keeps the contract of `Backbone`."""

from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import Tensor, nn
from torchvision import models

from visiontune.config.compose import config_dir
from visiontune.models.backbones import Backbone, build

FILES = [file for file in (config_dir() / "backbone").glob("*.yaml") if file.stem != "base"]
SHIPPED = sorted(yaml.safe_load(file.read_text())["name"] for file in FILES)
OTHERS = ["convnext_nano", "vit_tiny_patch16_224", "efficientvit_b0"]  # timm
OTHERS += ["densenet121", "regnet_y_400mf", "shufflenet_v2_x0_5", "mobilenet_v2"]  # torchvision
SIZE = {"inception_v3": 96}  # pixels; 64 elsewhere


@pytest.fixture(scope="module", params=[*SHIPPED, *OTHERS])
def backbone(request: pytest.FixtureRequest) -> Iterator[Backbone]:
    torch.manual_seed(0)
    built, report = build(request.param, weights=None, image_size=size_of(request.param))
    assert report.source == "random initialisation"
    return built.eval()


def size_of(name: str) -> int:
    return SIZE.get(name, 64)


def random_image(backbone: Backbone, count: int = 2) -> Tensor:
    size = size_of(backbone.name)
    return torch.rand(count, backbone.in_channels, size, size, generator=torch.Generator().manual_seed(1))


def full_network(backbone: Backbone) -> tuple[nn.Module, nn.Module]:
    """The library's own network with the backbone's weights and a random classifier, and that classifier."""
    size = size_of(backbone.name)
    options: dict[str, Any] = {"num_classes": 5}
    if backbone.name == "inception_v3":
        options |= {"aux_logits": False, "transform_input": False, "init_weights": False}
    if backbone.name.startswith("vit_"):
        options |= {"img_size" if backbone.library == "timm" else "image_size": size}
    regnet = backbone.name.startswith("regnet")  # computes its widths with tensors
    with torch.device("cpu" if regnet else "meta"):  # initialising it would take most of the time
        make = timm.create_model if backbone.library == "timm" else models.get_model
        network: nn.Module = make(backbone.name, **options)
    missing, unexpected = network.load_state_dict(backbone.model.state_dict(), strict=False, assign=True)
    assert unexpected == []
    assert len(missing) == 2  # the classifier's weight and bias: the keys are the library's own
    classifier = network.get_submodule(missing[0].rpartition(".")[0])
    classifier.to_empty(device="cpu")
    return network.eval(), classifier


def test_stages_are_disjoint_and_complete(backbone: Backbone) -> None:
    stages = backbone.stages()
    staged = [id(t) for _, stage in stages for t in [*stage.parameters(), *stage.buffers()]]
    owned = [id(t) for t in [*backbone.model.parameters(), *backbone.model.buffers()]]
    assert len(staged) == len(set(staged))
    assert set(staged) == set(owned)
    names = [name for name, _ in stages]
    assert len(set(names)) == len(names)
    assert 2 <= len(stages) <= 14
    assert all("." not in name for name in names)
    assert all(any(True for _ in stage.parameters()) for _, stage in stages), "a stage without parameters"


def test_stages_hold_the_mode_of_every_layer_that_has_one(backbone: Backbone) -> None:
    backbone.train()
    for _, stage in backbone.stages():
        stage.eval()
    moody = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    left = [name for name, m in backbone.model.named_modules() if isinstance(m, moody) and m.training]
    backbone.eval()
    assert left == []


def test_maps_have_the_channels_and_strides_promised(backbone: Backbone) -> None:
    image = random_image(backbone)
    with torch.no_grad():
        maps = backbone(image).maps
    assert [m.shape[1] for m in maps] == backbone.channels
    assert backbone.strides == sorted(backbone.strides) and len(set(backbone.strides)) == len(backbone.strides)
    for feature_map, stride in zip(maps, backbone.strides, strict=True):
        assert feature_map.shape[0] == 2
        for side, full in zip(feature_map.shape[2:], image.shape[2:], strict=True):
            lost = 3 if backbone.name == "inception_v3" else 0.5  # its convolutions are not padded
            assert abs(side - full / stride) <= lost


def test_embedding_is_what_the_librarys_classifier_sees(backbone: Backbone) -> None:
    image = random_image(backbone)
    with torch.no_grad():
        features = backbone(image)
        assert features.embedding.shape == (2, backbone.embedding_dim)
        if backbone.library == "small_cnn":
            torch.testing.assert_close(features.embedding, features.maps[-1].mean(dim=(2, 3)))
            return
        network, classifier = full_network(backbone)
        seen: list[Tensor] = []
        classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        network((image - backbone.mean) / backbone.std)
    torch.testing.assert_close(features.embedding, seen[0].flatten(1), rtol=1e-5, atol=1e-5)


def test_one_training_step_reaches_every_parameter(backbone: Backbone) -> None:
    """Last of this module: it changes the network."""
    backbone.train()
    features = backbone(random_image(backbone))
    loss = features.embedding.square().mean() + sum(m.square().mean() for m in features.maps)
    loss.backward()
    assert torch.isfinite(loss)
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []
    name, stage = backbone.stages()[0]
    before = [parameter.detach().clone() for parameter in stage.parameters()]
    torch.optim.SGD(backbone.parameters(), lr=0.1).step()
    assert any(not torch.equal(old, new) for old, new in zip(before, stage.parameters(), strict=True)), name
    backbone.zero_grad(set_to_none=True)
