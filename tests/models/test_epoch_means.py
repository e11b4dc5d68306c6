"""Means over an epoch and over ranks; tests/end_to_end/test_processes.py has real ranks."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from visiontune.models import epoch_means
from visiontune.models.distributed import gather_ranks
from visiontune.models.epoch_means import EpochMeans


def test_means_are_over_the_samples_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a part of the loss that only one rank has labels for."""
    ranks = []
    for values in ({"loss": (4.0, 2), "boxes": (3.0, 1)}, {"loss": (1.0, 6)}):
        ranks.append(EpochMeans())
        ranks[-1].update({name: (torch.tensor(value), samples) for name, (value, samples) in values.items()})
    monkeypatch.setattr(epoch_means, "gather_ranks", lambda *_: [means.state_dict() for means in ranks])
    trainer: Any = SimpleNamespace(world_size=2, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    computed = ranks[0].compute(trainer)
    assert {name: float(value) for name, value in computed.items()} == {"loss": 14 / 8, "boxes": 3.0}
    assert ranks[0].state_dict() == {}  # the next epoch starts from nothing


def test_one_rank_gathers_its_own_value() -> None:
    trainer: Any = SimpleNamespace(world_size=1)
    assert gather_ranks(trainer, 5) == [5]
