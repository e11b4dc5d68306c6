"""COCO's metrics for boxes and masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torchmetrics.detection import MeanAveragePrecision

from visiontune.models.heads.metrics import PerClass, Value

AREAS = ("small", "medium", "large")  # less than 32^2, less than 96^2, or more pixels of the image
DETECTIONS = 100  # that COCO counts in an image


def coco_numbers(detections: int = DETECTIONS) -> tuple[str, ...]:
    """The names of the 12 numbers if up to so many detections are counted in an image."""
    precision = ("map", "map_50", "map_75", *(f"map_{area}" for area in AREAS))
    return *precision, "mar_1", "mar_10", f"mar_{detections}", *(f"mar_{area}" for area in AREAS)


NUMBERS = coco_numbers()


class CocoMetrics(MeanAveragePrecision):
    """The 12 numbers of pycocotools' `COCOeval`, and `ap/CLASS` for each class.

    They measure boxes, or masks if `iou_types` has "segm"; the numbers of the boxes are then called `box_map` and so
    on. As in COCO, 100 detections of an image are counted; if a head predicts more, all are, and `mar_100` is called
    `mar_300` and so on. An object's area is that of the annotation file, else that of its mask, else that of its box. A
    number is NaN if the truth has no object of its size or class.
    """

    def __init__(
        self, classes: Sequence[str], iou_types: Sequence[str] = ("bbox",), max_detections: int = DETECTIONS
    ) -> None:
        """
        Args:
            iou_types: ("bbox",) or ("bbox", "segm").
            max_detections: the largest number of predictions of an image.
        """
        detections = max(DETECTIONS, max_detections)
        super().__init__(
            iou_type=tuple(iou_types),  # type: ignore[arg-type]
            # The defaults are rounded to float32, which moves a recall to the other side of a threshold.
            iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
            rec_thresholds=np.linspace(0, 1, 101).tolist(),
            max_detection_thresholds=[1, 10, detections],
            class_metrics=True,
            backend="faster_coco_eval",
        )
        self.warn_on_many_detections = False
        self.numbers = coco_numbers(detections)
        self.class_names = list(classes)

    def update(self, predictions: list[dict[str, Tensor]], targets: list[Any]) -> None:
        """Add predictions and targets of some images, in pixels of the image."""
        if predictions:
            outputs = [{name: _plain(value) for name, value in prediction.items()} for prediction in predictions]
            truth = [{name: _plain(value) for name, value in target.items()} for target in targets]
            super().update(outputs, [{**target, "iscrowd": target.pop("crowd").long()} for target in truth])

    def compute(self) -> dict[str, Value]:
        computed = super().compute()
        classes = np.atleast_1d(computed["classes"].numpy()).tolist()  # those that occur, in truth or predictions
        result: dict[str, Value] = {}
        for iou_type in self.iou_type:
            prefix = f"{iou_type}_" if len(self.iou_type) > 1 else ""  # torchmetrics'
            name_prefix = "box_" if prefix == "bbox_" else ""
            result |= {
                name_prefix + name: _nan_if_negative(computed[prefix + name]).reshape(()) for name in self.numbers
            }
            values = computed.get(f"{prefix}map_per_class", torch.empty(0)).reshape(-1)
            by_label = dict(zip(classes, values, strict=False))
            ap = torch.stack([by_label.get(i, torch.tensor(-1.0)) for i in range(len(self.class_names))])
            result[f"{name_prefix}ap_per_class"] = PerClass(
                f"{name_prefix}ap", tuple(self.class_names), _nan_if_negative(ap)
            )
        return result

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        """Gather the states of every rank, in the order of the ranks.

        torchmetrics exchanges one image after another, and waits forever if the ranks have unequal numbers of images.
        """
        group = process_group or self.process_group
        states = {name: getattr(self, name) for name in self._reductions}
        ranks: list[Any] = [None] * distributed.get_world_size(group)
        distributed.all_gather_object(ranks, states, group)
        for name in states:
            setattr(self, name, [part for rank in ranks for part in rank[name]])


def _nan_if_negative(value: Tensor) -> Tensor:
    return torch.where(value < 0, torch.nan, value)


def _plain(value: Tensor) -> Tensor:
    """A plain tensor on the CPU, where the metrics are computed, instead of a tv_tensor."""
    return value.detach().as_subclass(Tensor).cpu()
