"""torchvision's own detectors against ours, built from configs/pretrained and loaded from the same state dict."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model

from visiontune.data.schema import TaskInfo
from visiontune.models.backbones import build
from visiontune.models.heads import DetectionHead, InstancesHead
from visiontune.models.pretrained.torchvision_detection import rename_detector

CONFIGS = Path(__file__).parents[3] / "configs" / "pretrained"
QUICK = ("fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn")
NAMES = sorted(path.stem for path in CONFIGS.glob("*_fpn*.yaml"))
SIZES = ((32, 48), (64, 64), (128, 64))  # (H, W) of the images; the network sees 64 x 96, 64 x 64 and 128 x 64
ENTRIES = 91  # COCO's numbers, the background included


class Fixed(nn.Module):
    """Replaces a detector's transform: the same network input in training and evaluation."""

    def __init__(self, images: Any, targets: Any) -> None:
        super().__init__()
        self.batch = images, targets

    def forward(self, images: Any, targets: Any) -> Any:
        return self.batch

    def postprocess(self, result: Any, shapes: Any, original: Any) -> Any:
        return result


def library_model(name: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The library's model as it is with its published weights, but with random ones."""
    with monkeypatch.context() as patch:
        patch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: {})
        patch.setattr(nn.Module, "load_state_dict", lambda self, state, **_: None)
        model = get_model(name, weights="DEFAULT", min_size=64, max_size=128)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif key.endswith(("cls_logits.bias", "cls_score.bias")):
                tensor.normal_(std=2)  # some scores are above the threshold
            elif key.endswith(("running_mean", "bias")):
                tensor.add_(0.1 * torch.randn_like(tensor))
            elif not key.startswith("backbone.body") and tensor.is_floating_point():
                tensor.add_(tensor.abs().mean() * torch.randn_like(tensor))
    return model


def same_settings(library: Any, ours: Any) -> None:
    """What the library is evaluated with is in our YAML. Then fewer proposals and masks, since they are slow."""
    parts = [(library, ours.model)] if hasattr(library, "head") else [(library.roi_heads, ours.roi)]
    for one, other in parts:
        for key in ("score_thresh", "nms_thresh", "detections_per_img", "topk_candidates"):
            assert getattr(one, key, None) == getattr(other, key, None), key
    if hasattr(library, "head"):
        return
    for roi in (library.roi_heads, ours.roi):
        roi.detections_per_img = 25
    assert library.roi_heads.fg_bg_sampler.batch_size_per_image == ours.roi.fg_bg_sampler.batch_size_per_image
    assert library.rpn.score_thresh == ours.rpn.score_thresh
    for key in ("_pre_nms_top_n", "_post_nms_top_n"):
        counts = getattr(library.rpn, key)
        assert {counts["testing"]} == {*getattr(ours.rpn, key).values()}
        for rpn in (library.rpn, ours.rpn):
            setattr(rpn, key, {"training": 60, "testing": 60})


def our_model(name: str) -> tuple[Any, Any, str]:
    config: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    backbone, _ = build(**config["backbone"], library="torchvision", weights=None)
    ((task, options),) = config["heads"].items()
    entries = ENTRIES - 1 if "rcnn" in name else ENTRIES
    head = {"detection": DetectionHead, "instances": InstancesHead}[task]
    return backbone, head(backbone.shape, TaskInfo(task, [str(i) for i in range(entries)]), **options), task


def draw(size: tuple[int, int], classes: int) -> tuple[Tensor, dict[str, Tensor]]:
    height, width = size
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.7], [0.4, 0.1, 0.9, 0.5], [0.05, 0.5, 0.95, 0.95]])
    boxes = boxes * torch.tensor([width, height, width, height])
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return torch.rand(3, height, width), {"boxes": boxes, "labels": torch.tensor([1, 5, classes - 1]), "masks": masks}


def same_models(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, nn.ModuleDict, str]:
    """The library's model, ours with its weights, and the name of our head."""
    torch.manual_seed(0)
    backbone, head, task = our_model(name)
    library: Any = library_model(name, monkeypatch)
    same_settings(library, head.detector)
    ours = nn.ModuleDict({"backbone": backbone, "heads": nn.ModuleDict({task: head})})
    result = ours.load_state_dict(rename_detector(library.state_dict(), task), strict=False)
    assert result.unexpected_keys == []
    assert {key for key in result.missing_keys if not re.match(r"backbone\.model\.classifier\.", key)} == {
        "backbone.mean",
        "backbone.std",
    }
    return library, ours, task


def our_target(target: dict[str, Tensor], two_stage: bool) -> dict[str, Tensor]:
    return {**target, "labels": target["labels"] - int(two_stage), "crowd": torch.zeros(3, dtype=torch.bool)}


def run_head(ours: Any, head: Any, images: Tensor) -> Any:
    features = ours["backbone"].features(images)
    features.size = tuple(images.shape[-2:])
    return head(features)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES])
def test_outputs_boxes_masks_and_losses_are_the_librarys(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library, ours, task = same_models(name, monkeypatch)
    head: Any = ours["heads"][task]
    backbone: Any = ours["backbone"]
    two_stage, transform = "rcnn" in name, library.transform.eval()
    assert backbone.mean.flatten().tolist() == pytest.approx(transform.image_mean)
    assert backbone.std.flatten().tolist() == pytest.approx(transform.image_std)

    objects = 0
    for size in SIZES:
        image, target = draw(size, ENTRIES)
        images, targets = transform([image], [target])
        library.transform = Fixed(images, targets)
        for training in (False, True):
            for model in (library, ours):
                model.train(training)
            with torch.no_grad():
                torch.manual_seed(1)
                expected = library([image], [target] if training else None)
                torch.manual_seed(1)
                raw = run_head(ours, head, images.tensors)
                if training:
                    losses = head.loss(raw, [our_target(targets[0], two_stage)])
                    assert losses.keys() == expected.keys()
                    for key, value in expected.items():
                        assert float(losses[key]) == pytest.approx(float(value), rel=1e-5), key
                    continue
                levels = list(library.backbone(images.tensors).values())
                for key, value in raw_outputs(library, levels).items():
                    torch.testing.assert_close(raw[key], value, rtol=1e-5, atol=1e-5)
                (found,) = head.detector.detect(raw)
            objects += len(found["boxes"])
            torch.testing.assert_close(found["boxes"], expected[0]["boxes"], rtol=0, atol=1e-3)
            torch.testing.assert_close(found["scores"], expected[0]["scores"], rtol=0, atol=1e-5)
            assert torch.equal(found["labels"] + int(two_stage), expected[0]["labels"])
            if task == "instances":
                torch.testing.assert_close(found["masks"], expected[0]["masks"], rtol=0, atol=1e-5)
    assert objects > 10


@pytest.mark.slow
def test_ten_training_steps_give_the_weights_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    library, ours, task = same_models(QUICK[0], monkeypatch)
    head: Any = ours["heads"][task]
    transform = library.transform.eval()
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    models: list[Any] = [library.train().requires_grad_(), ours.train()]
    optimizers = [torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9) for model in models]
    for step in range(10):
        image, target = draw(SIZES[step % len(SIZES)], ENTRIES)
        images, targets = transform([image], [target])
        library.transform = Fixed(images, targets)
        torch.manual_seed(step)
        sum(library([image], [target]).values()).backward()
        torch.manual_seed(step)
        total = sum(head.loss(run_head(ours, head, images.tensors), [our_target(targets[0], True)]).values())
        total.backward()
        for model, optimizer in zip(models, optimizers, strict=True):
            nn.utils.clip_grad_norm_(model.parameters(), 1)
            optimizer.step()
            optimizer.zero_grad()
    after = ours.state_dict()
    expected = rename_detector(library.state_dict(), task)
    assert all(torch.allclose(after[key], value, rtol=0, atol=1e-4) for key, value in expected.items())
    moved = {
        part: max(float((value - before[key]).abs().max()) for key, value in expected.items() if key.startswith(part))
        for part in ("backbone", "heads")
    }
    assert min(moved.values()) > 5e-4, moved  # more than the tolerance


def raw_outputs(library: Any, levels: list[Tensor]) -> dict[str, Tensor]:
    if hasattr(library, "head"):
        return library.head(levels)
    objectness, deltas = library.rpn.head(levels)
    flat = [output.permute(0, 2, 3, 1).flatten(1) for output in objectness]
    sides = [output.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for output in deltas]
    return {"objectness": torch.cat(flat, 1), "deltas": torch.cat(sides, 1)}


OLD = {
    "backbone.fpn.inner_blocks.0.weight": "detector.pyramid.top_down.inner_blocks.0.0.weight",
    "backbone.fpn.layer_blocks.3.bias": "detector.pyramid.top_down.layer_blocks.3.0.bias",
    "rpn.head.conv.weight": "detector.rpn.head.conv.0.0.weight",
    "roi_heads.mask_head.mask_fcn4.bias": "detector.roi.mask_head.3.0.bias",
    "head.regression_head.conv.6.weight": "detector.model.head.regression_head.conv.3.0.weight",
}


def test_names_of_older_files_are_known() -> None:
    """Those that torchvision converts when it loads its own first weights."""
    renamed = rename_detector({key: torch.zeros(1) for key in OLD}, "instances")
    assert list(renamed) == [f"heads.instances.{name}" for name in OLD.values()]
    fcos = {"head.classification_head.conv.3.weight": 0, "head.regression_head.bbox_ctrness.bias": 0}
    assert "heads.detection.detector.model.head.classification_head.conv.3.weight" in rename_detector(fcos, "detection")
