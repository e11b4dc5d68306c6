"""torchvision's own detectors against ours, built from configs/pretrained and loaded from the same state dict."""

import pytest
import torch
from running import mostly_slow

from benchmarks.equality import LIMITS, compare_images, compare_training
from benchmarks.library_detectors import DetectorPair
from visiontune.config.compose import config_dir
from visiontune.models.pretrained.torchvision_detection import rename_detector

QUICK = "fasterrcnn_mobilenet_v3_large_320_fpn"
NAMES = sorted(path.stem for path in (config_dir() / "pretrained").glob("*_fpn*.yaml"))


@pytest.mark.parametrize("name", mostly_slow(NAMES, QUICK))
def test_outputs_boxes_masks_and_losses_are_the_librarys(name: str) -> None:
    pair = DetectorPair(name)
    transform = pair.library.transform
    assert pair.backbone.mean.flatten().tolist() == pytest.approx(transform.image_mean)
    assert pair.backbone.std.flatten().tolist() == pytest.approx(transform.image_std)
    results = compare_images(pair)
    assert results.pop("objects") > 10
    expected = {"outputs", "boxes", "scores", "losses", *(["masks"] if name.startswith("maskrcnn") else [])}
    assert results.keys() == expected
    assert all(value <= LIMITS[key] for key, value in results.items()), results


@pytest.mark.slow
def test_ten_training_steps_give_the_weights_of_the_library() -> None:
    """benchmarks/equality.py shows it for all models."""
    pair = DetectorPair(QUICK)
    largest, changes = compare_training(pair, steps=10)
    assert largest <= LIMITS["weights"] and min(changes.values()) > 5e-4, changes  # more than the tolerance
    with torch.no_grad():
        pair.head.detector.roi.box_predictor.cls_score.bias[0] += 0.01  # of the background
    assert compare_images(pair)["scores"] > LIMITS["scores"]


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
