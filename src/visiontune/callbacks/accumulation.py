"""Gradient accumulation where the number of batches is not a multiple of the window."""

from typing import Any

import lightning as L
from torch import Tensor


class LastWindowScale(L.Callback):
    """Scales the losses of an epoch's last accumulation window if it is shorter than the others.

    Lightning divides each loss by `accumulate_grad_batches` there too, so the gradient of that window is too small.
    """

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
        window, batches = trainer.accumulate_grad_batches, int(trainer.num_training_batches)
        length = batches % window  # of the last window; 0 if all windows are full
        if length and trainer.fit_loop.batch_idx >= batches - length:
            loss.mul_(window / length)
