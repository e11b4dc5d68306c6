"""Exchange of values between the ranks of a distributed run."""

from typing import Any

import lightning as L
import torch


def gather_ranks(trainer: L.Trainer, value: Any) -> list[Any]:
    """`value` of every rank, in the order of ranks; all ranks must call this together."""
    values = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def mean_over_ranks(value: float, device: torch.device) -> float:
    """The mean of `value` over all ranks, which must call this together; `value` itself without ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    total = torch.tensor(float(value), device=device)
    torch.distributed.all_reduce(total)
    return float(total) / torch.distributed.get_world_size()
