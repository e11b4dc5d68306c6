"""Smaller and faster runs made of a run: recipes of steps, and the table that compares them."""

from visiontune.compressing.int8 import Int8
from visiontune.compressing.prune import Prune
from visiontune.compressing.small import Small
from visiontune.compressing.sparsify import Sparsify
from visiontune.compressing.train_step import TrainStep

__all__ = ["Int8", "Prune", "Small", "Sparsify", "TrainStep"]
