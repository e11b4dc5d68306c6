"""Smaller and faster runs made of a run: recipes of steps, and the table that compares them."""

from visiontune.compression.int8 import Int8
from visiontune.compression.prune import Prune
from visiontune.compression.small import Small
from visiontune.compression.sparsify import Sparsify
from visiontune.compression.train_step import TrainStep

__all__ = ["Int8", "Prune", "Small", "Sparsify", "TrainStep"]
