"""Whole pretrained models: weights for backbone, neck and head, whose rows of known classes are kept."""

from visiontune.models.pretrained.load import load_pretrained

__all__ = ["load_pretrained"]
