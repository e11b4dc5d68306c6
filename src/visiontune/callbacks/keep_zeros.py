"""Zeros of a sparsified backbone stay zeros."""

from typing import Any

import lightning as L
from torch import Tensor


class KeepZeros(L.Callback):
    """Lets no gradient into backbone weights that are zero as the training begins; checkpoints hold which those are.

    With no gradient from the first step on, an optimizer's moments, weight decay and the weight average leave a zero
    exactly as it is. Tensors that are zero as a whole (an adapter's or a residual branch's beginning) train.
    """

    def __init__(self) -> None:
        self.zeros: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        backbone: Any = pl_module.backbone
        weights = {name: parameter for name, parameter in backbone.named_parameters() if parameter.ndim > 1}
        if trainer.ckpt_path is None:
            zeros = {name: weight.detach() == 0 for name, weight in weights.items()}
            self.zeros = {name: where for name, where in zeros.items() if where.any() and not where.all()}
        else:  # a checkpoint's lie in main memory
            self.zeros = {name: where.to(weights[name].device) for name, where in self.zeros.items()}

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        backbone: Any = pl_module.backbone
        for name, parameter in backbone.named_parameters():
            if name in self.zeros and parameter.grad is not None:
                parameter.grad.masked_fill_(self.zeros[name], 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"zeros": self.zeros}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.zeros = state_dict["zeros"]
