"""Training of a sparsified backbone."""

from typing import Any

import lightning as L
from torch import Tensor


class KeepZeros(L.Callback):
    """Keeps those backbone weights at zero that are zero when the training starts.

    It sets their gradients to zero from the first step on, so that the optimizer's moments, weight decay and the weight
    average leave them exactly zero. Tensors that are all zero (a new adapter) train. Checkpoints contain masks of the
    zero weights.
    """

    def __init__(self) -> None:
        self.zeros: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        backbone: Any = pl_module.backbone
        weights = {name: parameter for name, parameter in backbone.named_parameters() if parameter.ndim > 1}
        if trainer.ckpt_path is None:
            zeros = {name: weight.detach() == 0 for name, weight in weights.items()}
            self.zeros = {name: mask for name, mask in zeros.items() if mask.any() and not mask.all()}
        else:  # loaded from a checkpoint, on the CPU
            self.zeros = {name: mask.to(weights[name].device) for name, mask in self.zeros.items()}

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        backbone: Any = pl_module.backbone
        for name, parameter in backbone.named_parameters():
            if name in self.zeros and parameter.grad is not None:
                parameter.grad.masked_fill_(self.zeros[name], 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"zeros": self.zeros}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.zeros = state_dict["zeros"]
