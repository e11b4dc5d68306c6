"""Heads: one file a task. A head knows its task and nothing of Lightning."""

from visiontune.heads.base import Head, HeadMetrics
from visiontune.heads.classification import ClassificationHead
from visiontune.heads.dense import DenseHead
from visiontune.heads.detection import DetectionHead
from visiontune.heads.instances import InstancesHead
from visiontune.heads.multilabel import MultilabelHead
from visiontune.heads.regression import RegressionHead
from visiontune.heads.segmentation import SegmentationHead

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
