"""torchvision's segmenters beside ours, with the same weights."""

from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights

from benchmarks.library_detectors import difference
from visiontune.config.compose import config_dir
from visiontune.data import TaskInfo
from visiontune.data.targets import LabelMap
from visiontune.models.backbones import build
from visiontune.models.heads import SegmentationHead
from visiontune.models.pretrained.torchvision_segmentation import rename_segmenter

CLASSES = list(LRASPP_MobileNet_V3_Large_Weights.DEFAULT.meta["categories"])
SIZES = ((64, 64), (48, 96), (80, 56), (33, 65), (96, 72))  # (H, W) of the images


class SegmenterPair:
    """torchvision's model, with weights and statistics far from those of a fresh one; and ours with the same weights.

    Attributes:
        library, ours: the models; ours has the children `backbone` and `heads`.
    """

    def __init__(self, name: str) -> None:
        self.library: Any = build_library(name)
        self.ours: Any = build_ours(name, self.library.state_dict())
        self.backbone, self.head = self.ours["backbone"], self.ours["heads"]["segmentation"]

    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The library's tensors under our names."""
        return rename_segmenter(state, "segmentation")

    def train(self, training: bool = True) -> None:
        for model in (self.library, self.ours):
            model.train(training)

    @torch.no_grad()
    def compare(self, size: tuple[int, int]) -> dict[str, float]:
        """Largest differences of outputs and losses (relative), and the fraction of pixels with another class."""
        images, classes = samples(size)
        self.train(False)
        expected, raw = self._run(images)
        outputs, logits = raw["logits"], expected["out"]
        assert float(logits.std()) > 1e-3
        reference, loss = self._losses(expected, raw, classes)
        return {
            "outputs": difference(outputs, logits, relative=True),
            "masks": float((outputs.argmax(1) != logits.argmax(1)).float().mean()),
            "losses": abs(float(loss) / float(reference) - 1),
        }

    def _run(self, images: Tensor, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The library's outputs and ours."""
        torch.manual_seed(seed)
        expected = self.library((images - self.backbone.mean) / self.backbone.std)
        torch.manual_seed(seed)
        return expected, self.head(self.backbone(images))

    def _losses(self, expected: dict[str, Tensor], raw: dict[str, Tensor], classes: Tensor) -> list[Tensor]:
        """The loss of torchvision's training and ours."""
        losses = self.head.loss(raw, [LabelMap(image.to(torch.uint8)) for image in classes])
        assert set(losses) == ({"ce"} if self.head.auxiliary is None else {"ce", "auxiliary"})
        return [reference_loss(expected, classes), torch.stack(list(losses.values())).sum()]

    def total_losses(self, step: int) -> list[Tensor]:
        """The loss of the library and ours, for the two images of a training step."""
        images, classes = samples(SIZES[step % len(SIZES)])
        return self._losses(*self._run(images, seed=step), classes)


def build_library(name: str, classes: int = len(CLASSES)) -> nn.Module:
    """torchvision's model."""
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
    config = yaml.safe_load((config_dir() / "pretrained" / f"{name}.yaml").read_text())
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


def samples(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Two images ``(2, 3, H, W)`` in 0..1 and the classes of their pixels."""
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, *size, generator=draw)
    return images, torch.randint(len(CLASSES), (2, *size), generator=draw)


def reference_loss(outputs: dict[str, Tensor], classes: Tensor) -> Tensor:
    """The loss of torchvision's training."""
    losses = {name: F.cross_entropy(logits, classes, ignore_index=255) for name, logits in outputs.items()}
    return losses["out"] + (0.5 * losses["aux"] if "aux" in losses else 0.0)
