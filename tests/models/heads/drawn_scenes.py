"""Small images with a truth for every head: coloured rectangles on a dull ground, under noise."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import tv_tensors

from visiontune.data.frames import Frame
from visiontune.data.targets import IGNORE, LabelMap
from visiontune.models.backbones import Backbone, build
from visiontune.models.heads import Head
from visiontune.models.heads.metrics import name_scalars

COLOURS = torch.eye(3)
CLASSES = ["background", "red", "green", "blue"]


def scenes(count: int, seed: int = 0, side: int = 64, noise: float = 0.1) -> tuple[Tensor, dict[str, list[Any]]]:
    """Images ``(count, 3, side, side)`` in 0..1, and by kind of head their targets.

    The borders of the label maps are unknown. The values of regression are the areas of red and green in pixels.
    """
    draw = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    shades = 0.3 + 0.2 * torch.rand(count, 3, 4, 4, generator=draw)
    images, maps = F.interpolate(shades, (side, side), mode="bilinear"), torch.zeros(count, side, side)
    for image, labels in zip(images, maps, strict=True):
        for colour in range(3):
            if integer(0, 3):  # two of three times
                h, w = integer(side // 4, side // 2), integer(side // 4, side // 2)
                top, left = integer(0, side - h), integer(0, side - w)
                image[:, top : top + h, left : left + w] = COLOURS[colour][:, None, None]
                labels[top : top + h, left : left + w] = colour + 1
    areas = torch.stack([(maps == c).sum((1, 2)) for c in (1, 2, 3)], 1).float()
    known = maps.to(torch.uint8)
    known[:, :2] = IGNORE
    noisy = (images + noise * torch.randn(images.shape, generator=draw)).clamp(0, 1)
    return noisy, {
        "segmentation": [LabelMap(labels) for labels in known],
        "regression": list(areas[:, :2]),
        "multilabel": list((areas > 0).float()),
        "dense": [tv_tensors.Image(image) for image in images],
    }


def tiny() -> Backbone:
    torch.manual_seed(0)
    return build("small_cnn", widths=[16, 32, 64], depth=1)[0]


def overfit(
    head: Head, backbone: Backbone, kind: str, steps: int, lr: float = 0.01, **options: Any
) -> dict[str, float]:
    """The metrics on eight scenes (with these options) after so many steps on them."""
    images, targets = scenes(8, **options)
    model = nn.ModuleList([backbone, head])
    head.fit_targets(targets[kind])
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(head.loss(head(backbone(images)), targets[kind]).values()).backward()
        optimizer.step()
        schedule.step()
    return evaluated(head.eval(), backbone.eval(), images, targets[kind])


@torch.no_grad()
def evaluated(head: Head, backbone: Backbone, images: Tensor, targets: list[Any]) -> dict[str, float]:
    metrics = head.metrics()
    predictions = head.decode(head(backbone(images)), [Frame.whole(*images.shape[-2:])] * len(images))
    metrics.update(predictions, targets)
    return {name: float(value) for name, value in name_scalars(metrics.compute()).items()}
