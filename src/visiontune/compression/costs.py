"""Costs of a network that do not depend on the machine."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from visiontune.models.finetuner import FineTuner


@torch.no_grad()
def macs(model: FineTuner, size: tuple[int, int]) -> int:
    """Multiply-adds of one forward pass through backbone and heads, for one image of `size` (H, W).

    Counts convolutions, matrix products and attention, as papers do; elementwise operations do not count.
    """
    training, fastpath = model.training, torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused attention is not counted
    try:
        with FlopCounterMode(display=False) as counter:
            model.eval()(torch.zeros(1, model.backbone.in_channels, *size, device=model.device))
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        model.train(training)
    return counter.get_total_flops() // 2


def params(model: nn.Module) -> int:
    """Number of parameters; BatchNorm statistics do not count."""
    return sum(parameter.numel() for parameter in model.parameters())
