"""Weight decay towards the pretrained weights instead of towards zero."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from visiontune.errors import UserError


class L2SP(L.Callback):
    """Adds the gradient of ``alpha / 2 |w - w0|^2`` for the backbone and ``beta / 2 |w|^2`` for the heads.

    ``w0`` are the weights at the start of the training (Li et al. 2018, https://arxiv.org/abs/1802.01483); checkpoints
    contain them. The optimizer's own decay pulls towards zero, so `technique=[ema,l2_sp]` switches it off.

    Args:
        alpha: of the backbone, 0 or more.
        beta: of the heads, 0 or more.

    Raises:
        UserError: `alpha` or `beta` is negative.
    """

    def __init__(self, alpha: float = 0.1, beta: float = 0.01) -> None:
        if min(alpha, beta) < 0:
            raise UserError(
                f"technique.l2_sp: expected alpha and beta of 0 or more, got {alpha} and {beta}; write "
                "technique.l2_sp.alpha=0.1"
            )
        self.alpha, self.beta = alpha, beta
        self.start: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        backbone: Any = pl_module.backbone
        if trainer.ckpt_path is None:
            self.start = {name: p.detach().clone() for name, p in backbone.named_parameters()}
        else:  # loaded from a checkpoint, on the CPU
            self.start = {name: self.start[name].to(p.device) for name, p in backbone.named_parameters()}

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        backbone: Any = pl_module.backbone
        for name, parameter in backbone.named_parameters():
            if parameter.grad is not None:
                parameter.grad.add_(parameter - self.start[name], alpha=self.alpha)
        for parameter in pl_module.heads.parameters():  # type: ignore[union-attr]
            if parameter.grad is not None:
                parameter.grad.add_(parameter, alpha=self.beta)

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = state_dict["start"]
