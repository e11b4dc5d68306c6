"""The outputs of frozen stages, computed once."""

from visiontune.models.replay import Frozen, replayed

__all__ = ["Frozen", "replayed"]
