"""Whole pretrained models: weights for backbone, neck and head, whose rows of known classes are kept."""

from visiontune.models.pretrained.load import LIBRARIES, load_pretrained

__all__ = ["LIBRARIES", "load_pretrained"]
