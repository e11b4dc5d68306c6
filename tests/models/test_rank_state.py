"""What each process of a run has of its own; tests/end_to_end/test_processes.py has the processes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from visiontune.models.epoch_means import EpochMeans
from visiontune.models.rank_state import gather_ranks, restore_rank, save_ranks


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the ranks that have been asked so far gave, instead of processes that wait for each other."""
    seen: list[Any] = []

    def gather(values: list[Any], value: Any) -> None:
        seen.append(value)
        values[: len(seen)] = seen

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    return seen


def ranks(count: int) -> list[Any]:
    return [SimpleNamespace(world_size=count, global_rank=rank) for rank in range(count)]


def test_each_rank_goes_on_from_its_own_statistics_and_sums(gathered: list[Any], tmp_path: Path) -> None:
    trainers, checkpoints = ranks(2), []
    for trainer in reversed(trainers):  # so that rank 0 has seen both
        module, average = (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)) for _ in range(2))
        module(torch.randn(2, 3, 4, 4))
        average(torch.randn(2, 3, 4, 4))
        parts = {"state_dict": average.state_dict(), "current_model_state": module.state_dict()}
        checkpoints.append(parts | {"epoch_sums": {f"of {trainer.global_rank}": [1.0, 2.0]}})
        save_ranks(trainer, module, checkpoints[-1])
    second, first = checkpoints
    first["ranks"].reverse()  # they were asked from the last to the first
    torch.save(first, tmp_path / "last.ckpt")  # rank 0's is the one that is written
    for trainer, own, other in ((trainers[0], first, second), (trainers[1], second, first)):
        found = torch.load(tmp_path / "last.ckpt", weights_only=True)
        restore_rank(trainer, found)
        assert found["epoch_sums"] == own["epoch_sums"]
        for part in ("state_dict", "current_model_state"):
            assert torch.equal(found[part]["0.weight"], first[part]["0.weight"])  # parameters are equal in a real run
            for name in ("1.running_mean", "1.running_var"):
                assert torch.equal(found[part][name], own[part][name])
                assert not torch.equal(found[part][name], other[part][name])
    for trainer in ranks(3):  # of another number of processes all have rank 0's
        found = torch.load(tmp_path / "last.ckpt", weights_only=True)
        restore_rank(trainer, found)
        assert torch.equal(found["state_dict"]["1.running_mean"], first["state_dict"]["1.running_mean"])


def test_one_process_keeps_nothing_twice() -> None:
    (trainer,), checkpoint = ranks(1), {"state_dict": {}, "epoch_sums": {}}
    save_ranks(trainer, nn.BatchNorm2d(4), checkpoint)
    assert checkpoint == {"state_dict": {}, "epoch_sums": {}}
    restore_rank(trainer, checkpoint)
    assert gather_ranks(trainer, 5) == [5]


def test_means_are_of_the_samples_of_all_ranks() -> None:
    """Also of a part that one rank alone had a label for."""
    states = []
    for values in ({"loss": (4.0, 2), "boxes": (3.0, 1)}, {"loss": (1.0, 6)}):
        means = EpochMeans()
        for name, (value, samples) in values.items():
            means.add(name, torch.tensor(value), samples)
        states.append(means.state_dict())
    means = EpochMeans()
    means.join(states, torch.device("cpu"))
    assert {name: float(value) for name, value in means.take().items()} == {"loss": 14 / 8, "boxes": 3.0}
