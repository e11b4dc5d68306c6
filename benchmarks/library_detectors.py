"""torchvision's detectors beside ours, with the same weights."""

import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model

from visiontune.config.compose import config_dir
from visiontune.data.schema import TaskInfo
from visiontune.models.backbones import build
from visiontune.models.heads import DetectionHead, InstancesHead
from visiontune.models.pretrained.torchvision_detection import rename_detector

ENTRIES = 91  # COCO's numbers, the background included
# (H, W) of the images; the network sees 64 x 96, 64 x 64, 128 x 64, 64 x 128 and 96 x 64. None of them is padded, since
# torchvision cuts boxes at the image, and our heads cut them there only in `decode`.
SIZES = ((32, 48), (64, 64), (128, 64), (40, 80), (72, 48))


class FixedTransform(nn.Module):
    """Replaces a detector's transform: the same network input in training and evaluation."""

    def __init__(self, images: Any, targets: Any) -> None:
        super().__init__()
        self.batch = images, targets

    def forward(self, images: Any, targets: Any) -> Any:
        return self.batch

    def postprocess(self, result: Any, shapes: Any, original: Any) -> Any:
        return result


class DetectorPair:
    """torchvision's model as it is with its published weights, but with random ones; and ours with the same weights.

    Attributes:
        library, ours: the models; ours has the children `backbone` and `heads`.
        task: of our head.
        two_stage: whether the library's labels begin with the background.
    """

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        backbone, head, self.task = _build_ours(name)
        self.library: Any = _build_library(name)
        self.two_stage = "rcnn" in name
        check_settings(self.library, head.detector)
        self.ours: Any = nn.ModuleDict({"backbone": backbone, "heads": nn.ModuleDict({self.task: head})})
        result = self.ours.load_state_dict(self.rename(self.library.state_dict()), strict=False)
        assert result.unexpected_keys == []
        missing = {key for key in result.missing_keys if not re.match(r"backbone\.model\.classifier\.", key)}
        assert missing == {"backbone.mean", "backbone.std"}
        self.head, self.backbone = head, backbone
        self.resize = self.library.transform.eval()

    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The library's tensors under our names."""
        return rename_detector(state, self.task)

    def load(self, size: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        """The network's input of a random image of this size and its target; the library's model will see them too."""
        image, target = draw(size)
        images, targets = self.resize([image], [target])
        self.library.transform = FixedTransform(images, targets)
        return images.tensors, targets[0]

    def train(self, training: bool = True) -> None:
        for model in (self.library, self.ours):
            model.train(training)

    def compute_losses(self, images: Tensor, target: dict[str, Tensor], seed: int) -> list[dict[str, Tensor]]:
        """The losses of the library and ours, in training mode."""
        torch.manual_seed(seed)
        expected = self.library(list(images), [target])
        torch.manual_seed(seed)
        labels = target["labels"] - int(self.two_stage)
        ours = {**target, "labels": labels, "crowd": torch.zeros(len(labels), dtype=torch.bool)}
        return [expected, self.head.loss(self._raw(images), [ours])]

    @torch.no_grad()
    def compare(self, size: tuple[int, int]) -> dict[str, float]:
        """Largest differences of outputs, boxes (pixels), scores, masks and losses (relative); the number of `objects`.

        Raises:
            AssertionError: the models find other objects.
        """
        images, target = self.load(size)
        self.train()
        losses, ours = self.compute_losses(images, target, seed=1)
        assert ours.keys() == losses.keys()
        self.train(False)
        raw = self._raw(images)
        levels = list(self.library.backbone(images).values())
        expected = self.library(list(images))[0]
        (objects,) = self.head.detector.detect(raw)
        assert torch.equal(objects["labels"] + int(self.two_stage), expected["labels"])
        outputs = _raw_outputs(self.library, levels)
        parts = {name: difference(objects[name], expected[name]) for name in expected if name != "labels"}
        return parts | {
            "outputs": max(difference(raw[key], value, relative=True) for key, value in outputs.items()),
            "losses": max(abs(float(ours[key]) / float(value) - 1) for key, value in losses.items()),
            "objects": len(expected["boxes"]),
        }

    def total_losses(self, step: int) -> list[Tensor]:
        """The sum of the library's losses and that of ours, for the image of a training step."""
        losses = self.compute_losses(*self.load(SIZES[step % len(SIZES)]), seed=step)
        return [torch.stack(list(parts.values())).sum() for parts in losses]

    def _raw(self, images: Tensor) -> dict[str, Any]:
        features = self.backbone.features(images)
        features.size = tuple(images.shape[-2:])
        return self.head(features)


def difference(value: Tensor, expected: Tensor, relative: bool = False) -> float:
    """The largest difference; if `relative`, of values above 1 the relative one."""
    if not len(expected):
        return 0.0
    scale = expected.abs().clamp_min(1) if relative else torch.ones(())
    return float(((value - expected).abs() / scale).max())


def draw(size: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
    """A random image ``(3, H, W)`` with three objects."""
    height, width = size
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.7], [0.4, 0.1, 0.9, 0.5], [0.05, 0.5, 0.95, 0.95]])
    boxes = boxes * torch.tensor([width, height, width, height])
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return torch.rand(3, height, width), {"boxes": boxes, "labels": torch.tensor([1, 5, ENTRIES - 1]), "masks": masks}


def check_settings(library: Any, ours: Any) -> None:
    """The settings of the library's evaluation are in our YAML. Then fewer proposals and masks, since they are slow."""
    pair = (library, ours.model) if hasattr(library, "head") else (library.roi_heads, ours.roi)
    for key in ("score_thresh", "nms_thresh", "detections_per_img", "topk_candidates"):
        assert getattr(pair[0], key, None) == getattr(pair[1], key, None), key
    if hasattr(library, "head"):
        return
    for roi in pair:
        roi.detections_per_img = 25
    assert library.roi_heads.fg_bg_sampler.batch_size_per_image == ours.roi.fg_bg_sampler.batch_size_per_image
    assert library.rpn.score_thresh == ours.rpn.score_thresh
    for key in ("_pre_nms_top_n", "_post_nms_top_n"):
        assert {getattr(library.rpn, key)["testing"]} == {*getattr(ours.rpn, key).values()}
        for rpn in (library.rpn, ours.rpn):
            setattr(rpn, key, {"training": 60, "testing": 60})


def _build_library(name: str) -> nn.Module:
    with (
        patch.object(WeightsEnum, "get_state_dict", lambda self, **_: {}),
        patch.object(nn.Module, "load_state_dict", lambda self, state, **_: None),
    ):
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


def _build_ours(name: str) -> tuple[Any, Any, str]:
    config: Any = OmegaConf.to_container(OmegaConf.load(Path(config_dir()) / "pretrained" / f"{name}.yaml"))
    backbone, _ = build(**config["backbone"], library="torchvision", weights=None)
    task = config["pretrained"]["task"]
    options = config["heads"][task]
    entries = ENTRIES - 1 if "rcnn" in name else ENTRIES
    head = {"detection": DetectionHead, "instances": InstancesHead}[task]
    return backbone, head(backbone.shape, TaskInfo(task, [str(i) for i in range(entries)]), **options), task


def _raw_outputs(library: Any, levels: list[Tensor]) -> dict[str, Tensor]:
    if hasattr(library, "head"):
        return library.head(levels)
    objectness, deltas = library.rpn.head(levels)
    flat = [output.permute(0, 2, 3, 1).flatten(1) for output in objectness]
    sides = [output.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for output in deltas]
    return {"objectness": torch.cat(flat, 1), "deltas": torch.cat(sides, 1)}
