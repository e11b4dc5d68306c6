"""Freezing: sets `requires_grad` and the train or eval mode of each stage, every epoch."""

from typing import Any

import lightning as L
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from visiontune.strategies.base import HEADS, Stages, Strategy


def freeze(stages: Stages, strategy: Strategy, epoch: int) -> None:
    """Freeze the stages and parameters that the strategy does not train in this epoch, and unfreeze the others.

    A frozen stage gets no gradients, updates no BatchNorm statistics and applies no dropout, so its outputs are the
    same in training and evaluation. Call it after `train()`, which resets the modes, and after DDP has wrapped the
    model: DDP does not synchronise the gradients of parameters that are frozen when it wraps them.
    """
    trainable = strategy.trainable(epoch)
    for name, module in stages:
        trains = name in trainable
        module.train(trains)
        for part in module.modules():
            for key, parameter in part.named_parameters(recurse=False):
                parameter.requires_grad_(trains and trains_parameter(strategy, name, part, key))
            if trains and strategy.batchnorm == "frozen" and name != HEADS and isinstance(part, _BatchNorm):
                part.eval()
        if name == HEADS:
            _freeze_parts(module)


def trains_parameter(strategy: Strategy, stage: str, module: nn.Module, name: str) -> bool:
    """Whether the parameter `module.name` of a stage trains while its stage trains."""
    trains = strategy.trains_head_parameter if stage == HEADS else strategy.trains_parameter
    return trains(module, name)


def _freeze_parts(module: nn.Module) -> None:
    """Set layers of the heads whose parameters do not train to evaluation mode."""
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            part.eval()


def average_batchnorm(trainer: L.Trainer, module: nn.Module) -> None:
    """Average BatchNorm statistics over ranks, so that all ranks validate the same network."""
    if trainer.world_size > 1:
        for buffer in batchnorm_buffers(module):
            buffer.copy_(trainer.strategy.reduce(buffer, reduce_op="mean"))


def batchnorm_buffers(module: nn.Module) -> list[Any]:
    """Running means and variances, which each rank updates from its own samples."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    return [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
