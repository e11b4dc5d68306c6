"""Means over an epoch that go on where a run goes on."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


class EpochMeans:
    """Means of named values over the samples of an epoch; Lightning's own begin anew where a run goes on within one."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}  # value times samples, and samples

    def add(self, name: str, value: Tensor, samples: int) -> None:
        """The mean `value` of so many samples."""
        new = torch.stack([value.detach().float() * samples, value.new_full((), samples, dtype=torch.float)])
        self._count(name, new)

    def _count(self, name: str, new: Tensor) -> None:
        self.sums[name] = self.sums[name] + new if name in self.sums else new

    def join(self, ranks: Iterable[Mapping[str, list[float]]], device: torch.device) -> None:
        """Become the sums of all ranks, each of which may have other names."""
        self.sums = {}
        for state in ranks:
            for name, pair in state.items():
                self._count(name, torch.tensor(pair, device=device))

    def take(self) -> dict[str, Tensor]:
        """The means, and an end of the epoch."""
        means = {name: total / samples for name, (total, samples) in self.sums.items()}
        self.sums = {}
        return means

    def state_dict(self) -> dict[str, list[float]]:
        return {name: pair.tolist() for name, pair in self.sums.items()}

    def load_state_dict(self, state: Mapping[str, list[float]], device: torch.device) -> None:
        self.sums = {name: torch.tensor(pair, device=device) for name, pair in state.items()}
