"""A mask for each object."""

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from visiontune.data.frames import Frame
from visiontune.data.schema import TaskInfo
from visiontune.models.features import FeatureShape
from visiontune.models.heads.base import Prediction, Raw
from visiontune.models.heads.boxes import paste_masks
from visiontune.models.heads.coco_metrics import NUMBERS, CocoMetrics
from visiontune.models.heads.detection import DetectionHead, has_area


class InstancesHead(DetectionHead):
    """Mask R-CNN: a `DetectionHead` with detector="faster_rcnn", its options, and a mask for each box."""

    directions = dict.fromkeys([*NUMBERS, *(f"box_{name}" for name in NUMBERS)], "max") | {"loss": "min"}
    masks = True

    def __init__(self, features: FeatureShape, info: TaskInfo, **options: Any) -> None:
        super().__init__(features, info, detector="faster_rcnn", **options)

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        objects = self.detector.graph(raw)
        inside = has_area(frame.boxes(objects["boxes"]))
        boxes = objects["boxes"][inside]
        masks = paste_masks(objects["masks"][inside][:, 0], frame.boxes(boxes, clip=False), frame.size) > 0.5
        plain = {name: value[inside] for name, value in objects.items() if name != "masks"}
        return super()._to_image(frame, plain) | {"masks": masks}

    def _to_image(self, frame: Frame, objects: dict[str, Tensor]) -> Prediction:
        height, width = frame.size
        # A mask covers its whole box: if the box extends beyond the image, the mask is cut, not squeezed.
        unclipped = frame.boxes(objects["boxes"], clip=False)
        # One at a time, since a hundred masks of a photograph in float32 need gigabytes.
        masks = [
            paste_masks_in_image(mask[None], box[None], (height, width))[0, 0] > 0.5
            for mask, box in zip(objects["masks"], unclipped, strict=True)
        ]
        empty = torch.empty((0, height, width), dtype=torch.bool, device=unclipped.device)
        return super()._to_image(frame, objects) | {"masks": torch.stack(masks) if masks else empty}

    def metrics(self) -> CocoMetrics:
        return CocoMetrics(self.classes, ("bbox", "segm"), self.max_detections)
