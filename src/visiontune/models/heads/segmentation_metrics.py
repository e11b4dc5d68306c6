"""Metrics of label maps."""

from collections.abc import Sequence

from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from visiontune.data.targets import IGNORE
from visiontune.models.heads.base import Prediction
from visiontune.models.heads.metrics import PerClass, Value


class SegmentationMetrics(MulticlassConfusionMatrix):
    """IoU, Dice and pixel accuracy from the confusion matrix of the split; `IGNORE` in the truth is left out.

    A class that occurs neither in truth nor in prediction has no IoU and no Dice (NaN), and the means leave it out.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(len(classes), ignore_index=IGNORE, validate_args=False)
        self.classes = list(classes)

    def update(self, predictions: list[Prediction], targets: list[Tensor]) -> None:  # type: ignore[override]
        for prediction, target in zip(predictions, targets, strict=True):  # images differ in size
            labels = prediction["map"].long()
            super().update(labels, target.as_subclass(Tensor).to(labels))

    def compute(self) -> dict[str, Value]:  # type: ignore[override]
        matrix = super().compute()
        intersection, total = matrix.diag(), matrix.sum(0) + matrix.sum(1)
        iou = intersection / (total - intersection)  # 0 / 0 is NaN
        return {
            "miou": iou.nanmean(),
            "dice": (2 * intersection / total).nanmean(),
            "pixel_accuracy": intersection.sum() / matrix.sum(),
            "confusion_matrix": matrix,
            "iou_per_class": PerClass("iou", tuple(self.classes), iou),
        }
