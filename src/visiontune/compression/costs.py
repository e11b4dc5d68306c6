"""What a network costs, whatever the machine."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from visiontune.models.finetuner import FineTuner


@torch.no_grad()
def macs(model: FineTuner, size: tuple[int, int]) -> int:
    """Multiplications with an addition of one forward pass, backbone and heads, of one image of `size` (H, W).

    Those of convolutions, matrix products and attention, as papers count them; not of what is done element by element.
    """
    training, fast = model.training, torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation for a whole attention, which nobody counts
    try:
        with FlopCounterMode(display=False) as counter:
            model.eval()(torch.zeros(1, model.backbone.in_channels, *size, device=model.device))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        model.train(training)
    return counter.get_total_flops() // 2


def params(model: nn.Module) -> int:
    """How many numbers are learned; BatchNorm's statistics are not."""
    return sum(parameter.numel() for parameter in model.parameters())
