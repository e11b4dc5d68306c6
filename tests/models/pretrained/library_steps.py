"""Training steps of a library's model beside ours."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Loss = Callable[[int], Tensor]


def train_both(
    library: tuple[nn.Module, Loss], ours: tuple[nn.Module, Loss], steps: int, max_norm: float = math.inf
) -> list[float]:
    """Train both with the same optimizer and the same draws; the losses of each step are equal.

    Args:
        library, ours: the model, and its loss in a step.
        max_norm: gradients are clipped to this norm.

    Returns:
        The losses.
    """
    optimizers = [torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9) for model, _ in (library, ours)]
    values = []
    for step in range(steps):
        torch.manual_seed(step)
        expected = library[1](step)
        torch.manual_seed(step)
        loss = ours[1](step)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        for optimizer, value in zip(optimizers, (expected, loss), strict=True):
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], max_norm)
            optimizer.step()
        values.append(float(loss.detach()))
    return values
