"""The random state of a training step."""

import torch


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed what dropout draws from, so that it depends on these four numbers alone.

    A resumed run then drops the same values as an uninterrupted one, and the second pass of SAM the same as the first.
    """
    torch.manual_seed(hash((seed, epoch, step, rank)) % 2**63)
