"""The outputs of frozen stages, computed once."""

from visiontune.models.replay import Frozen, replay

__all__ = ["Frozen", "replay"]
