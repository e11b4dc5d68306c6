"""The random state of a training step."""

import torch


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed torch's global generator, so that dropout depends only on these four numbers.

    A resumed run then drops the same values as an uninterrupted run, and the second pass of SAM the same as the first.
    """
    torch.manual_seed(hash((seed, epoch, step, rank)) % 2**63)
