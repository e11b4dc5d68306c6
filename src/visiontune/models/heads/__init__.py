"""Heads: one file a task. A head knows its task and nothing of Lightning."""

from visiontune.models.heads.base import Head, HeadMetrics
from visiontune.models.heads.classification import ClassificationHead
from visiontune.models.heads.dense import DenseHead
from visiontune.models.heads.detection import DetectionHead
from visiontune.models.heads.instances import InstancesHead
from visiontune.models.heads.multilabel import MultilabelHead
from visiontune.models.heads.regression import RegressionHead
from visiontune.models.heads.segmentation import SegmentationHead

__all__ = [
    "ClassificationHead",
    "DenseHead",
    "DetectionHead",
    "Head",
    "HeadMetrics",
    "InstancesHead",
    "MultilabelHead",
    "RegressionHead",
    "SegmentationHead",
]
