"""BatchNorm statistics of a distributed run."""

from typing import Any

import lightning as L

from visiontune.strategies.freezing import average_batchnorm


class AverageBatchNorm(L.Callback):
    """Averages BatchNorm statistics over the ranks before each validation.

    Each rank has seen other samples, and would validate another network.
    """

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        average_batchnorm(trainer, pl_module)
