"""Make smaller and faster runs from a run: the steps of recipes, and the table that compares them."""

from visiontune.compression.int8 import Int8
from visiontune.compression.prune import Prune
from visiontune.compression.small import Small
from visiontune.compression.sparsify import Sparsify
from visiontune.compression.train_step import TrainStep

__all__ = ["Int8", "Prune", "Small", "Sparsify", "TrainStep"]
