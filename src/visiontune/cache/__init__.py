"""The outputs of frozen stages, computed once."""

from visiontune.cache.replay import Frozen, replayed

__all__ = ["Frozen", "replayed"]
