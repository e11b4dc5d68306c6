"""Callbacks of a training and of an evaluation; none of them knows any task."""

from visiontune.callbacks.accumulation import LastWindowScale
from visiontune.callbacks.auto_rgn import AutoRGN
from visiontune.callbacks.averaging import StochasticWeightAverage, WeightAverage
from visiontune.callbacks.batchnorm import AverageBatchNorm
from visiontune.callbacks.checkpoints import Checkpoints
from visiontune.callbacks.collector import Collector
from visiontune.callbacks.exact_resume import ExactResume
from visiontune.callbacks.first_batch import FirstBatch
from visiontune.callbacks.history import History
from visiontune.callbacks.keep_zeros import KeepZeros
from visiontune.callbacks.l2_sp import L2SP
from visiontune.callbacks.probe_start import FirstValidation, ProbeStart
from visiontune.callbacks.quantization_aware import QuantizationAware
from visiontune.callbacks.step_curves import StepCurves
from visiontune.callbacks.unfreezing import UnfreezeLog

__all__ = [
    "L2SP",
    "AutoRGN",
    "AverageBatchNorm",
    "Checkpoints",
    "Collector",
    "ExactResume",
    "FirstBatch",
    "FirstValidation",
    "History",
    "KeepZeros",
    "LastWindowScale",
    "ProbeStart",
    "QuantizationAware",
    "StepCurves",
    "StochasticWeightAverage",
    "UnfreezeLog",
    "WeightAverage",
]
