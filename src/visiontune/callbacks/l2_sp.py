"""Weight decay towards the pretrained weights instead of towards zero."""

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from visiontune.errors import UserError
from visiontune.models.heads.class_rows import shared_parameters


class L2SP(L.Callback):
    """Adds the gradient of ``alpha / 2 |w - w0|^2`` for pretrained layers and ``beta / 2 |w|^2`` for the others.

    Pretrained are the backbone and, in a head that pretrained weights fill, the layers that do not depend on classes.
    ``w0`` are the weights at the start of the training (Li et al. 2018, https://arxiv.org/abs/1802.01483); checkpoints
    contain them. The optimizer's own decay pulls towards zero, so `technique=[ema,l2_sp]` switches it off.

    Args:
        alpha: of pretrained layers, 0 or more.
        beta: of the other layers, 0 or more.

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
        parameters = dict(_named_parameters(pl_module))
        if trainer.ckpt_path is None:
            known = _pretrained(pl_module)
            self.start = {name: p.detach().clone() for name, p in parameters.items() if id(p) in known}
        else:  # loaded from a checkpoint, on the CPU
            self.start = {name: value.to(parameters[name].device) for name, value in self.start.items()}

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        for name, parameter in _named_parameters(pl_module):
            if parameter.grad is not None and name in self.start:
                parameter.grad.add_(parameter - self.start[name], alpha=self.alpha)
            elif parameter.grad is not None:
                parameter.grad.add_(parameter, alpha=self.beta)

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = state_dict["start"]


def _named_parameters(module: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of the backbone, by their names in it, and of the heads."""
    yield from module.backbone.named_parameters()
    yield from module.heads.named_parameters(prefix="heads")


def _pretrained(module: Any) -> set[int]:
    """The ids of the parameters that pretrained weights fill."""
    heads = [head for head in module.heads.values() if head.is_pretrained]
    shared = [parameter for head in heads for parameter in shared_parameters(head, head.class_rows())]
    return {id(parameter) for parameter in (*module.backbone.parameters(), *shared)}
