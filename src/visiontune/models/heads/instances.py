"""A mask for each object."""

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from visiontune.data.frames import Frame
from visiontune.data.schema import TaskInfo
from visiontune.models.features import FeatureShape
from visiontune.models.heads.base import Prediction, Raw
from visiontune.models.heads.boxes import pasted
from visiontune.models.heads.coco_metrics import NUMBERS, CocoMetrics
from visiontune.models.heads.detection import DetectionHead, has_area


class InstancesHead(DetectionHead):
    """Mask R-CNN: a `DetectionHead` with detector="faster_rcnn" and its options, and a mask for each box."""

    directions = dict.fromkeys([*NUMBERS, *(f"box_{name}" for name in NUMBERS)], "max") | {"loss": "min"}
    masks = True

    def __init__(self, features: FeatureShape, info: TaskInfo, **options: Any) -> None:
        super().__init__(features, info, detector="faster_rcnn", **options)

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        found = self.detector.graph(raw)
        seen = has_area(frame.boxes(found["boxes"]))
        boxes = found["boxes"][seen]
        masks = pasted(found["masks"][seen][:, 0], frame.boxes(boxes, clip=False), frame.size) > 0.5
        plain = {name: value[seen] for name, value in found.items() if name != "masks"}
        return super()._in(frame, plain) | {"masks": masks}

    def _in(self, frame: Frame, found: dict[str, Tensor]) -> Prediction:
        high, wide = frame.size
        # A mask belongs to its whole box: one that sticks out of the image is cut, not squeezed.
        whole = frame.boxes(found["boxes"], clip=False)
        # One at a time: a hundred masks of a photograph in float32 are gigabytes.
        masks = [
            paste_masks_in_image(mask[None], box[None], (high, wide))[0, 0] > 0.5
            for mask, box in zip(found["masks"], whole, strict=True)
        ]
        none = torch.empty((0, high, wide), dtype=torch.bool, device=whole.device)
        return super()._in(frame, found) | {"masks": torch.stack(masks) if masks else none}

    def metrics(self) -> CocoMetrics:
        return CocoMetrics(self.classes, ("bbox", "segm"))
