"""A mask for each object."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from visiontune.data.frames import Frame
from visiontune.data.schema import TaskInfo
from visiontune.errors import UserError
from visiontune.models.features import FeatureShape
from visiontune.models.heads.base import Prediction, Raw
from visiontune.models.heads.boxes import paste_masks
from visiontune.models.heads.coco_metrics import NUMBERS, CocoMetrics
from visiontune.models.heads.detection import DetectionHead, has_area
from visiontune.models.heads.rf_detr import RfDetr

# Name in the config -> detector that predicts the boxes.
DETECTORS = {"mask_rcnn": "faster_rcnn", "rf_detr": "rf_detr"}


class InstancesHead(DetectionHead):
    """A mask for each object.

    Args:
        detector: "mask_rcnn", with the options of a `DetectionHead` with detector="faster_rcnn"; or "rf_detr".
        samples: an option of mask_rcnn, see `TwoStage`; None = 64, since masks need memory.

    Raises:
        UserError: another detector, and as `DetectionHead`.
    """

    directions = dict.fromkeys([*NUMBERS, *(f"box_{name}" for name in NUMBERS)], "max") | {"loss": "min"}
    masks = True

    def __init__(
        self,
        features: FeatureShape,
        info: TaskInfo,
        detector: str = "mask_rcnn",
        samples: int | None = None,
        **options: Any,
    ) -> None:
        if detector not in DETECTORS:
            raise UserError(f"heads.instances.detector={detector}: write {' or '.join(DETECTORS)}")
        if detector == "mask_rcnn" and samples is None:
            samples = 64
        super().__init__(features, info, detector=DETECTORS[detector], samples=samples, **options)

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        objects = self.detector.graph(raw)
        inside = has_area(frame.boxes(objects["boxes"]))
        objects = {name: value[inside] for name, value in objects.items()}
        if "mask_logits" in objects:
            masks = self._resize_masks(objects["mask_logits"], frame)
        else:
            boxes = frame.boxes(objects["boxes"], clip=False)
            masks = paste_masks(objects["masks"][:, 0], boxes, frame.size) > 0.5
        return super()._to_image(frame, objects) | {"masks": masks}

    def _to_image(self, frame: Frame, objects: dict[str, Tensor]) -> Prediction:
        height, width = frame.size
        if "mask_logits" in objects:
            masks = [self._resize_masks(logits[None], frame)[0] for logits in objects["mask_logits"]]
            empty = torch.empty((0, height, width), dtype=torch.bool, device=objects["boxes"].device)
            return super()._to_image(frame, objects) | {"masks": torch.stack(masks) if masks else empty}
        # A mask covers its whole box: if the box extends beyond the image, the mask is cut, not squeezed.
        unclipped = frame.boxes(objects["boxes"], clip=False)
        # One at a time, since a hundred masks of a photograph in float32 need gigabytes.
        masks = [
            paste_masks_in_image(mask[None], box[None], (height, width))[0, 0] > 0.5
            for mask, box in zip(objects["masks"], unclipped, strict=True)
        ]
        empty = torch.empty((0, height, width), dtype=torch.bool, device=unclipped.device)
        return super()._to_image(frame, objects) | {"masks": torch.stack(masks) if masks else empty}

    def _resize_masks(self, logits: Tensor, frame: Frame) -> Tensor:
        """Logits ``(N, h, w)`` over the whole input -> masks ``(N, H, W)`` over the image."""
        assert isinstance(self.detector, RfDetr)
        size = (logits.shape[-2] * self.detector.mask_stride, logits.shape[-1] * self.detector.mask_stride)
        if frame.inside == (0, 0, *size):
            return F.interpolate(logits[:, None], frame.size, mode="bilinear", align_corners=False)[:, 0] > 0
        return frame.pixels(F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False))[:, 0] > 0

    def metrics(self) -> CocoMetrics:
        return CocoMetrics(self.classes, ("bbox", "segm"), self.max_detections)
