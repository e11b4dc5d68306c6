"""Exchange of values between the ranks of a distributed run."""

from typing import Any

import lightning as L
import torch
from torch import Tensor


def gather_ranks(trainer: L.Trainer, value: Any) -> list[Any]:
    """`value` of every rank, in the order of ranks; all ranks must call this together."""
    values = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def rank_factor(count: int, like: Tensor) -> Tensor:
    """Converts a loss that this rank divided by its `count` of objects (at least 1) to one divided by the mean count.

    So each object counts the same on all ranks. All ranks must call this together, also those without objects.

    Args:
        like: a tensor on the device of the loss.
    """
    local, mean = like.new_tensor(float(count), dtype=torch.float32), like.new_tensor(float(count), dtype=torch.float32)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean /= torch.distributed.get_world_size()
    return local.clamp_min(1) / mean.clamp_min(1)
