"""What watches a run; a callback knows nothing of model internals or tasks."""

from visiontune.callbacks.averaging import WeightAverage
from visiontune.callbacks.checkpoints import Checkpoints
from visiontune.callbacks.collector import Collector
from visiontune.callbacks.first_batch import FirstBatch
from visiontune.callbacks.history import History
from visiontune.callbacks.start import FirstValidation, ProbeStart

__all__ = ["Checkpoints", "Collector", "FirstBatch", "FirstValidation", "History", "ProbeStart", "WeightAverage"]
