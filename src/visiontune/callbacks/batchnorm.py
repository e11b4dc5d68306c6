"""BatchNorm statistics of a distributed run."""

from typing import Any

import lightning as L

from visiontune.strategies.freezing import average_batchnorm


class AverageBatchNorm(L.Callback):
    """Averages BatchNorm statistics over the ranks before each validation.

    Each rank computes them from its own samples, so the ranks would otherwise validate different networks.
    """

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        average_batchnorm(trainer, pl_module)
