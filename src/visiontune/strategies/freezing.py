"""The one place that freezes: `requires_grad` and the mode of each stage, re-applied every epoch."""

import lightning as L
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from visiontune.strategies.base import HEADS, Stages, Strategy


def freeze(stages: Stages, strategy: Strategy, epoch: int) -> None:
    """Let exactly what the strategy says train in this epoch.

    A frozen stage is frozen wholly: no gradients, no new BatchNorm statistics, no dropout, so its outputs in training
    and evaluation are equal. Called after `train()`, which would undo the modes, and after DDP has wrapped the model
    with every parameter registered: freezing before would leave what unfreezes later out of the gradient exchange.
    """
    trainable = strategy.trainable(epoch)
    for name, module in stages:
        trains = name in trainable
        module.train(trains)
        for part in module.modules():
            for own, parameter in part.named_parameters(recurse=False):
                parameter.requires_grad_(trains and (name == HEADS or strategy.picks(part, own)))
            if trains and strategy.batchnorm == "frozen" and name != HEADS and isinstance(part, _BatchNorm):
                part.eval()


def average_batchnorm(trainer: L.Trainer, module: nn.Module) -> None:
    """Let all ranks have one set of statistics: each has seen other samples, and would validate another network."""
    if trainer.world_size > 1:
        for buffer in batchnorm_buffers(module):
            buffer.copy_(trainer.strategy.reduce(buffer, reduce_op="mean"))


def batchnorm_buffers(module: nn.Module) -> list:
    """Running means and variances, which each rank of a distributed training updates from its own samples."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    return [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
