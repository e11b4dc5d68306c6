"""torchvision models of 91 classes, whose files are where a download would put them, and data with three classes."""

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from visiontune.config.compose import train_config
from visiontune.config.launch import Launch
from visiontune.data import TaskInfo
from visiontune.models.finetuner import FineTuner
from visiontune.training.build import build_finetuner
from visiontune.training.resolve import resolve

CLASSES = ["person", "unicorn", "auto"]
SIDE = 128
COCO = get_model_weights("fasterrcnn_resnet50_fpn").DEFAULT.meta["categories"]
OBJECTS = [i for i, name in enumerate(COCO) if name not in ("__background__", "N/A")]


@pytest.fixture
def save(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`save("retinanet_resnet50_fpn")`: torchvision's model with random weights, saved as its download."""

    def save_model(name: str) -> nn.Module:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setattr(torch.hub, "_hub_dir", None)
        torch.manual_seed(0)
        model = get_model(name, weights=None, weights_backbone=None, num_classes=91, min_size=SIDE, max_size=SIDE)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0  # as with torchvision's weights
        for key, parameter in model.named_parameters():
            if "cls_" in key:  # scores differ, and many are high
                nn.init.normal_(parameter, std=0.1)
            if key.endswith(
                "classification_head.cls_logits.bias"
            ):  # only those of person and car, so that no candidate is left out
                parameter.data.view(9, 91)[:, [0, 2, *range(4, 91)]] = -50.0
        file = tmp_path / "hub" / "checkpoints" / Path(urlparse(get_model_weights(name).DEFAULT.url).path).name
        file.parent.mkdir(parents=True)
        torch.save(model.state_dict(), file)
        return model.eval()

    return save_model


def build_model(name: str, *overrides: str) -> tuple[FineTuner, str]:
    torch.manual_seed(1)
    keys = [f"pretrained={name}", "heads=detection", "data=digit_scenes", f"data.image_size={SIDE}", "trainer=cpu"]
    cfg = resolve(train_config([*keys, "pretrained.map={auto: car}", *overrides]), Launch())
    model, report = build_finetuner(cfg, {"detection": TaskInfo("detection", CLASSES)}, epochs=1, download=False)
    return model.eval(), str(report)


def objects(boxes: Tensor, labels: Tensor, scores: Tensor, label: int) -> Tensor:
    """Rows `x1, y1, x2, y2, score` of one class, sorted by score."""
    rows = torch.cat([boxes, scores[:, None]], 1)[labels == label]
    return rows[rows[:, 4].argsort(descending=True)]


@pytest.mark.slow
@torch.no_grad()
def test_a_retinanet_finds_known_classes_before_the_training(save: Any) -> None:
    theirs = save("retinanet_resnet50_fpn")
    ours, report = build_model("retinanet_resnet50_fpn", "heads.detection.max_detections=10000")
    theirs.detections_per_img = 10_000
    assert "100.0% of the parameters loaded" in report and "missing" not in report
    assert "  kept rows: person, auto; fresh: unicorn (pretrained.map={unicorn: NAME} takes" in report

    layers = [
        model.get_submodule(f"{path}head.classification_head.cls_logits")
        for model, path in ((theirs, ""), (ours, "heads.detection.detector.model."))
    ]
    for name in ("weight", "bias"):
        rows, kept = (getattr(layer, name).unflatten(0, (9, -1)) for layer in layers)
        assert rows.shape[1] == 91 and kept.shape[1] == 3
        assert torch.equal(kept[:, [0, 2]], rows[:, [1, 3]])
    assert len(OBJECTS) == 80 and torch.equal(kept[:, 1], rows[:, OBJECTS].mean(1))

    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    expected = theirs(image)[0]
    head: Any = ours.heads["detection"]
    predictions = head.detector.detect(ours(image)["detection"])[0]
    for label, entry in ((0, 1), (2, 3)):
        rows = objects(expected["boxes"], expected["labels"], expected["scores"], entry)
        assert 20 < len(rows) < 1000
        boxes = objects(predictions["boxes"], predictions["labels"], predictions["scores"], label)
        torch.testing.assert_close(boxes[:, :4], rows[:, :4], atol=1e-3, rtol=0)
        torch.testing.assert_close(boxes[:, 4], rows[:, 4], atol=1e-5, rtol=0)


def test_a_faster_rcnn_keeps_scores_and_boxes_of_known_classes_and_the_background(save: Any) -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    old = save(name).state_dict()
    ours, report = build_model(name)
    assert "  missing, initialised: backbone.model.classifier.0.weight, backbone.model.classifier.0.bias\n" in report
    assert "  kept rows: person, auto; fresh: unicorn" in report
    new = ours.state_dict()
    for layer, per_class in (("cls_score", 1), ("bbox_pred", 4)):
        for part in ("weight", "bias"):
            rows = old[f"roi_heads.box_predictor.{layer}.{part}"].unflatten(0, (91, per_class))
            key = f"heads.detection.detector.roi.box_predictor.{layer}.{part}"
            kept = new[key].unflatten(0, (4, per_class))
            assert torch.equal(kept[[0, 1, 3]], rows[[0, 1, 3]]) and torch.equal(kept[2], rows[OBJECTS].mean(0))
    assert torch.equal(new["heads.detection.detector.roi.box_head.fc6.weight"], old["roi_heads.box_head.fc6.weight"])


@pytest.mark.slow
def test_a_mask_rcnn_for_boxes_alone(save: Any) -> None:
    name = "maskrcnn_resnet50_fpn"
    old = save(name).state_dict()
    ours, report = build_model(name)
    assert ": 291 tensors matched, 100.0% of the parameters loaded\n" in report and "missing" not in report
    assert "  not used: heads.detection.detector.roi.mask_head.0.0.weight, " in report and "(12 in all)" in report
    assert "  kept rows: person, auto; fresh: unicorn" in report
    new, roi = ours.state_dict(), "heads.detection.detector.roi"
    assert torch.equal(new[f"{roi}.box_head.fc7.weight"], old["roi_heads.box_head.fc7.weight"])
    rows = new[f"{roi}.box_predictor.cls_score.weight"]
    assert torch.equal(rows[[0, 1, 3]], old["roi_heads.box_predictor.cls_score.weight"][[0, 1, 3]])
