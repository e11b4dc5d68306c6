"""What each process of a run has of its own, in the one checkpoint that all of them go on from."""

from typing import Any

import lightning as L
import torch
from torch import nn

WEIGHTS = ("state_dict", "current_model_state")  # the second where the first is an average


def gather_ranks(trainer: L.Trainer, value: Any) -> list[Any]:
    """`value` as each rank has it; to be called in all of them."""
    values = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def save_ranks(trainer: L.Trainer, module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Let `checkpoint` hold what differs by rank: buffers, as BatchNorm's statistics are, and sums of the epoch.

    Only rank 0's checkpoint is written, and what ranks have of their own is made equal at a validation alone.
    """
    if trainer.world_size > 1:
        buffers = {name for name, _ in module.named_buffers()}
        own: dict[str, Any] = {"epoch_sums": checkpoint["epoch_sums"]}
        for part in WEIGHTS:
            own[part] = {name: value.cpu() for name, value in checkpoint.get(part, {}).items() if name in buffers}
        checkpoint["ranks"] = gather_ranks(trainer, own)


def restore_rank(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Make of `checkpoint` the one that this rank would have written; rank 0's where there were more or fewer then."""
    ranks = checkpoint.get("ranks", [])
    if len(ranks) == trainer.world_size:
        own = ranks[trainer.global_rank]
        checkpoint["epoch_sums"] = own["epoch_sums"]
        for part in WEIGHTS:
            checkpoint.get(part, {}).update(own[part])
