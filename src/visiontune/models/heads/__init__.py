"""Heads: one file for each task. A head does not depend on Lightning."""

from visiontune.models.heads.base import Head
from visiontune.models.heads.classification import ClassificationHead
from visiontune.models.heads.dense import DenseHead
from visiontune.models.heads.describable import Describable
from visiontune.models.heads.detection import DetectionHead
from visiontune.models.heads.distillable import Distillable
from visiontune.models.heads.exportable import Exportable
from visiontune.models.heads.instances import InstancesHead
from visiontune.models.heads.metrics import HeadMetrics, PerClass
from visiontune.models.heads.multilabel import MultilabelHead
from visiontune.models.heads.probeable import Probeable
from visiontune.models.heads.regression import RegressionHead
from visiontune.models.heads.segmentation import SegmentationHead

__all__ = [
    "ClassificationHead",
    "DenseHead",
    "Describable",
    "DetectionHead",
    "Distillable",
    "Exportable",
    "Head",
    "HeadMetrics",
    "InstancesHead",
    "MultilabelHead",
    "PerClass",
    "Probeable",
    "RegressionHead",
    "SegmentationHead",
]
