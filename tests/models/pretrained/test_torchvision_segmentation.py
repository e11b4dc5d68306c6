"""torchvision's segmenters and ours, from the same weights: outputs, losses and training are equal."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from running import mostly_slow
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.segmentation import (
    DeepLabV3_MobileNet_V3_Large_Weights,
    DeepLabV3_ResNet50_Weights,
    DeepLabV3_ResNet101_Weights,
    FCN_ResNet50_Weights,
    FCN_ResNet101_Weights,
    LRASPP_MobileNet_V3_Large_Weights,
)

from visiontune.config.compose import config_dir
from visiontune.data import TaskInfo
from visiontune.data.images import ImageDecoder
from visiontune.data.targets import LabelMap
from visiontune.deployment import files
from visiontune.deployment.graph import Graph, example_image
from visiontune.models.backbones import build
from visiontune.models.heads import SegmentationHead
from visiontune.models.pretrained.torchvision_segmentation import rename_segmenter

WEIGHTS: dict[str, Any] = {
    "deeplabv3_resnet50": DeepLabV3_ResNet50_Weights,
    "deeplabv3_resnet101": DeepLabV3_ResNet101_Weights,
    "deeplabv3_mobilenet_v3_large": DeepLabV3_MobileNet_V3_Large_Weights,
    "fcn_resnet50": FCN_ResNet50_Weights,
    "fcn_resnet101": FCN_ResNet101_Weights,
    "lraspp_mobilenet_v3_large": LRASPP_MobileNet_V3_Large_Weights,
}
MOBILE = ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"]
CLASSES = list(LRASPP_MobileNet_V3_Large_Weights.DEFAULT.meta["categories"])
SIDE = 64


def settings(name: str) -> dict[str, Any]:
    return yaml.safe_load((config_dir() / "pretrained" / f"{name}.yaml").read_text())


def build_theirs(name: str, classes: int = len(CLASSES)) -> nn.Module:
    """torchvision's model; its weights and statistics are far from those of a fresh one."""
    torch.manual_seed(0)
    auxiliary = {} if name.startswith("lraspp") else {"aux_loss": True}
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=classes, **auxiliary)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5), (module.bias, -0.2)):
                nn.init.uniform_(tensor, low, low + 0.7)
            nn.init.normal_(module.running_mean, std=0.1)
    return model


def build_ours(name: str, state: dict[str, Tensor]) -> nn.Module:
    """Backbone and head of the YAML, with all of these tensors."""
    config = settings(name)
    backbone, _ = build(**config["backbone"] | {"weights": None})
    head = SegmentationHead(
        backbone.shape, TaskInfo("segmentation", CLASSES), **config["heads"]["segmentation"] | {"loss": "ce"}
    )
    model = nn.ModuleDict({"backbone": backbone, "heads": nn.ModuleDict({"segmentation": head})})
    missing, unexpected = model.load_state_dict(rename_segmenter(state, "segmentation"), strict=False)
    # torchvision's segmenters have no pooled embedding, and no statistics of the images.
    assert unexpected == []
    assert {name for name in missing if not name.startswith("backbone.model.classifier.")} == {
        "backbone.mean",
        "backbone.std",
    }
    return model


def samples() -> tuple[Tensor, Tensor]:
    """Two images ``(2, 3, H, W)`` in 0..1 and their classes."""
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, SIDE, SIDE, generator=draw)
    return images, torch.randint(len(CLASSES), (2, SIDE, SIDE), generator=draw)


def reference_loss(outputs: dict[str, Tensor], classes: Tensor) -> Tensor:
    """The loss of torchvision's training."""
    losses = {name: F.cross_entropy(logits, classes, ignore_index=255) for name, logits in outputs.items()}
    return losses["out"] + (0.5 * losses["aux"] if "aux" in losses else 0.0)


@pytest.mark.parametrize("name", mostly_slow(WEIGHTS, *MOBILE))
def test_equal_outputs_losses_and_weights_after_three_steps(name: str) -> None:
    theirs = build_theirs(name).eval()
    ours = build_ours(name, theirs.state_dict()).eval()
    backbone, head = ours["backbone"], ours["heads"]["segmentation"]  # type: ignore[index]
    images, classes = samples()
    normalized = (images - backbone.mean) / backbone.std
    with torch.no_grad():
        outputs, expected = head(backbone(images))["logits"], theirs(normalized)["out"]
    assert float(expected.std()) > 1e-3
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(outputs.argmax(1), expected.argmax(1))

    targets = [LabelMap(image.to(torch.uint8)) for image in classes]
    optimizers = [
        torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9) for model in (theirs.train(), ours.train())
    ]
    for step in range(3):
        torch.manual_seed(step)
        reference = reference_loss(theirs(normalized), classes)
        torch.manual_seed(step)
        losses = head.loss(head(backbone(images)), targets)
        assert set(losses) == ({"ce"} if name.startswith("lraspp") else {"ce", "auxiliary"})
        loss = torch.stack(list(losses.values())).sum()
        torch.testing.assert_close(loss, reference, rtol=1e-5, atol=1e-5)
        if "101" in name:  # trains as the smaller network
            return
        for optimizer, value in zip(optimizers, (reference, loss), strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    trained = ours.state_dict()
    for key, value in rename_segmenter(theirs.state_dict(), "segmentation").items():
        torch.testing.assert_close(trained[key], value, rtol=1e-4, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_file_says_what_the_weights_say(name: str) -> None:
    config, weights = settings(name), WEIGHTS[name].DEFAULT
    transforms, pretrained = weights.transforms(), config["pretrained"]
    classification = models.get_model_weights(config["backbone"]["name"]).DEFAULT.transforms()
    assert (classification.mean, classification.std) == (transforms.mean, transforms.std)
    assert config["data"]["image_size"] == transforms.resize_size[0]
    assert str(weights.meta["_metrics"]["COCO-val2017-VOC-labels"]["miou"]) in pretrained["score"]


@pytest.mark.slow
def test_an_exported_file_gives_torchvisions_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "deeplabv3_mobilenet_v3_large"
    theirs = build_theirs(name).eval()
    ours: Any = build_ours(name, theirs.state_dict()).eval().requires_grad_(False)
    info = {"segmentation": TaskInfo("segmentation", CLASSES)}
    graph = Graph(ours, info, (SIDE, SIDE), "squash", 0.0, ImageDecoder(), "").eval()
    monkeypatch.setattr(files, "dimensions", lambda graph: {"image": None})  # images of one size, half the time
    files.write(graph, tmp_path / "model.onnx", "onnx")
    image = example_image(graph)
    outputs = files.OPEN["onnx"](tmp_path / "model.onnx")(image)
    with torch.no_grad():
        expected = theirs((graph.fit(image) - ours.backbone.mean) / ours.backbone.std)["out"]
    assert [key for key in outputs if key.startswith("raw.")] == ["raw.segmentation.logits"]  # no auxiliary classifier
    torch.testing.assert_close(outputs["raw.segmentation.logits"], expected, rtol=1e-4, atol=1e-4)
    assert outputs["segmentation.map"].shape == (2, *image.shape[2:])
