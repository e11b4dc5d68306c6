"""torchvision's segmenters and ours, from the same weights: outputs, losses and training are equal."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from running import mostly_slow
from torchvision import models
from torchvision.models.segmentation import (
    DeepLabV3_MobileNet_V3_Large_Weights,
    DeepLabV3_ResNet50_Weights,
    DeepLabV3_ResNet101_Weights,
    FCN_ResNet50_Weights,
    FCN_ResNet101_Weights,
    LRASPP_MobileNet_V3_Large_Weights,
)

from benchmarks.equality import LIMITS, compare_images, compare_training
from benchmarks.library_segmenters import CLASSES, SegmenterPair, build_library, build_ours
from visiontune.config.compose import config_dir
from visiontune.data import TaskInfo
from visiontune.data.images import ImageDecoder
from visiontune.deployment import files
from visiontune.deployment.graph import Graph, example_image

WEIGHTS: dict[str, Any] = {
    "deeplabv3_resnet50": DeepLabV3_ResNet50_Weights,
    "deeplabv3_resnet101": DeepLabV3_ResNet101_Weights,
    "deeplabv3_mobilenet_v3_large": DeepLabV3_MobileNet_V3_Large_Weights,
    "fcn_resnet50": FCN_ResNet50_Weights,
    "fcn_resnet101": FCN_ResNet101_Weights,
    "lraspp_mobilenet_v3_large": LRASPP_MobileNet_V3_Large_Weights,
}
SIDE = 64


def settings(name: str) -> dict[str, Any]:
    return yaml.safe_load((config_dir() / "pretrained" / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", mostly_slow(WEIGHTS, "lraspp_mobilenet_v3_large"))
def test_equal_outputs_losses_and_weights_after_training_steps(name: str) -> None:
    """benchmarks/equality.py compares ten steps."""
    pair = SegmenterPair(name)
    results = compare_images(pair)
    assert results.keys() == {"outputs", "masks", "losses", "objects"}
    assert results["masks"] == 0.0 and max(results["outputs"], results["losses"]) <= 1e-5, results
    if "101" not in name:  # trains as the smaller network
        largest, changes = compare_training(pair, steps=3)
        assert largest <= LIMITS["weights"] and min(changes.values()) > LIMITS["weights"], changes


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
    theirs = build_library(name).eval()
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
