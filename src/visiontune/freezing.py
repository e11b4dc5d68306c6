"""The one place that freezes: `requires_grad` and the mode of each stage, re-applied every epoch."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from visiontune.strategies.base import HEADS, Stages


def freeze(stages: Stages, trainable: set[str], batchnorm: str) -> None:
    """Let exactly `trainable` train.

    A frozen stage is frozen wholly: no gradients, no new BatchNorm statistics, no dropout, so its outputs in training
    and evaluation are equal. Called after `train()`, which would undo the modes, and after DDP has wrapped the model
    with every parameter registered: freezing before would leave what thaws later out of the gradient exchange.

    Args:
        batchnorm: "frozen" also keeps the statistics of BatchNorm in the backbone stages that do train.
    """
    for name, module in stages:
        trains = name in trainable
        for parameter in module.parameters():
            parameter.requires_grad_(trains)
        module.train(trains)
        if trains and batchnorm == "frozen" and name != HEADS:
            for part in module.modules():
                if isinstance(part, _BatchNorm):
                    part.eval()


def batchnorm_buffers(module: nn.Module) -> list:
    """Running means and variances, which each rank of a distributed training updates from its own samples."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    return [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
