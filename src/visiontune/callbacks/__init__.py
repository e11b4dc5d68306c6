"""Callbacks for training and evaluation; they do not depend on tasks."""

from visiontune.callbacks.accumulation import LastWindowScale
from visiontune.callbacks.auto_rgn import AutoRGN
from visiontune.callbacks.averaging import StochasticWeightAverage, WeightAverage
from visiontune.callbacks.batchnorm import AverageBatchNorm
from visiontune.callbacks.checkpoints import Checkpoints
from visiontune.callbacks.exact_resume import ExactResume
from visiontune.callbacks.first_batch import FirstBatch
from visiontune.callbacks.history import History
from visiontune.callbacks.initial_validation import InitialValidation
from visiontune.callbacks.keep_zeros import KeepZeros
from visiontune.callbacks.l2_sp import L2SP
from visiontune.callbacks.nonfinite import NonFinite
from visiontune.callbacks.prediction_collector import PredictionCollector
from visiontune.callbacks.probe_initialization import ProbeInitialization
from visiontune.callbacks.quantization_aware import QuantizationAware
from visiontune.callbacks.stage_monitor import StageMonitor
from visiontune.callbacks.unfreeze_monitor import UnfreezeMonitor

__all__ = [
    "L2SP",
    "AutoRGN",
    "AverageBatchNorm",
    "Checkpoints",
    "ExactResume",
    "FirstBatch",
    "History",
    "InitialValidation",
    "KeepZeros",
    "LastWindowScale",
    "NonFinite",
    "PredictionCollector",
    "ProbeInitialization",
    "QuantizationAware",
    "StageMonitor",
    "StochasticWeightAverage",
    "UnfreezeMonitor",
    "WeightAverage",
]
