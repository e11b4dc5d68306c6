"""Images of coloured rectangles and discs with their boxes and masks, and a head trained on a few of them."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from visiontune.data import TaskInfo
from visiontune.data.frames import Frame
from visiontune.data.targets import objects
from visiontune.models.backbones import Backbone
from visiontune.models.heads import DetectionHead
from visiontune.models.heads.metrics import name_scalars

CLASSES = ["rectangle", "disc"]
DETECTION = TaskInfo("detection", CLASSES)
INSTANCES = TaskInfo("instances", CLASSES)


def drawn(count: int, side: int = 64, seed: int = 0, most: int = 3) -> tuple[Tensor, list[dict[str, Any]]]:
    """`count` images ``(count, 3, side, side)`` in 0..1 with 1 to `most` objects each, and instances targets."""
    random = torch.Generator().manual_seed(seed)
    images = 0.2 * torch.rand(count, 3, side, side, generator=random)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    targets = []
    for image in images:
        boxes: list[list[int]] = []
        labels, masks = [], []
        wanted = int(torch.randint(1, most + 1, (1,), generator=random))
        while len(boxes) < wanted:
            sides = torch.randint(side // 5, side // 2, (2,), generator=random)
            label = int(torch.randint(2, (1,), generator=random))
            height, width = (int(sides[0]), int(sides[label - 1]))  # a disc's sides are equal
            top = int(torch.randint(0, side - height, (1,), generator=random))
            left = int(torch.randint(0, side - width, (1,), generator=random))
            if any(left < b[2] and b[0] < left + width and top < b[3] and b[1] < top + height for b in boxes):
                continue
            if label == 0:
                mask = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
            else:
                middle = (top + height / 2 - 0.5, left + height / 2 - 0.5)
                mask = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 <= (height / 2) ** 2
            image[:, mask] = 0.5 + 0.5 * torch.rand(3, 1, generator=random)
            boxes.append([left, top, left + width, top + height])
            labels.append(label)
            masks.append(mask)
        targets.append(objects(boxes, labels, (side, side), masks=torch.stack(masks)))
    return images, targets


class Levels(nn.Module):
    """The backbone with a head's pyramid, as torchvision's detectors want it."""

    def __init__(self, backbone: Backbone, head: DetectionHead) -> None:
        super().__init__()
        self.backbone, self.pyramid = backbone, head.detector.pyramid
        self.out_channels = self.pyramid.channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict((str(i), level) for i, level in enumerate(self.pyramid(self.backbone(images).maps)))


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([*losses.values()]).sum()


def overfitted(backbone: Backbone, head: DetectionHead, steps: int, lr: float = 4e-3) -> tuple[dict[str, Tensor], Any]:
    """What the metrics say of 8 images after `steps` on them, and the predictions."""
    images, targets = drawn(8)
    model = nn.ModuleList([backbone, head]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        total(head.loss(head(backbone(images)), targets)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        predictions = head.decode(head(backbone(images)), [Frame.whole(64, 64)] * 8)
    metrics = head.metrics()
    metrics.update(predictions[:5], targets[:5])
    metrics.update(predictions[5:], targets[5:])
    return name_scalars(metrics.compute()), predictions
