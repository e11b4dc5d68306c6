"""Heads: one file a task. A head knows its task and nothing of Lightning."""

from visiontune.heads.base import Head, HeadMetrics
from visiontune.heads.classification import ClassificationHead

__all__ = ["ClassificationHead", "Head", "HeadMetrics"]
