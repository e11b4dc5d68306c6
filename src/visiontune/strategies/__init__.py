"""What trains when, and at which learning rate: pure functions of the epoch."""

from visiontune.strategies.base import Stages, Strategy, stage_groups
from visiontune.strategies.full import Full
from visiontune.strategies.gradual_unfreeze import GradualUnfreeze
from visiontune.strategies.linear_probe import LinearProbe

__all__ = ["Full", "GradualUnfreeze", "LinearProbe", "Stages", "Strategy", "stage_groups"]
