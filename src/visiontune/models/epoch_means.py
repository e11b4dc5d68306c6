"""Means over the samples of an epoch that survive a resume within the epoch."""

from collections.abc import Iterable, Mapping

import lightning as L
import torch
from torch import Tensor

from visiontune.models.distributed import gather_ranks


class EpochMeans:
    """Means of named values over the samples of an epoch, and over all ranks.

    Lightning's own epoch means lose the earlier batches if a run resumes within an epoch.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}  # name -> (sum of value * samples, samples)

    def update(self, values: Mapping[str, tuple[Tensor, int]]) -> None:
        """Add means by name, each with its number of samples; a mean that is not finite is left out."""
        for name, (value, samples) in values.items():
            mean = value.detach().float()
            pair = torch.stack([mean * samples, mean.new_full((), samples)])
            self._add(name, torch.where(mean.isfinite(), pair, torch.zeros_like(pair)))

    def compute(self, trainer: L.Trainer) -> dict[str, Tensor]:
        """The means over all ranks, whose names may differ; then start the next epoch."""
        if trainer.world_size > 1:
            self.load_state_dicts(gather_ranks(trainer, self.state_dict()), trainer.strategy.root_device)
        means = {name: total / samples for name, (total, samples) in self.sums.items()}
        self.sums = {}
        return means

    def state_dict(self) -> dict[str, list[float]]:
        return {name: pair.tolist() for name, pair in self.sums.items()}

    def load_state_dicts(self, states: Iterable[Mapping[str, list[float]]], device: torch.device) -> None:
        """Replace the sums by the total of `states`."""
        self.sums = {}
        for state in states:
            for name, pair in state.items():
                self._add(name, torch.tensor(pair, device=device))

    def _add(self, name: str, pair: Tensor) -> None:
        self.sums[name] = self.sums[name] + pair if name in self.sums else pair
