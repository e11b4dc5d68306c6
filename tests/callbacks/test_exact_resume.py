"""What checkpoints hold beside Lightning's; tests/end_to_end/test_resume.py compares whole runs bit for bit."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from test_finetuner import batch, make, state, trainer
from torch import nn

from visiontune.callbacks import ExactResume, WeightAverage
from visiontune.callbacks.exact_resume import saved_ranks
from visiontune.models.epoch_means import EpochMeans
from visiontune.models.loss_terms import L1


class Network(nn.Module):
    """The parts of a FineTuner that a checkpoint needs more of than a state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.layers(torch.randn(2, 3, 4, 4))
        self.loss_terms, self.train_means, self.device = nn.ModuleList(), EpochMeans(), torch.device("cpu")


def rank_trainer(rank: int, count: int, average: nn.Module) -> Any:
    weight_average = WeightAverage()
    weight_average._average_model = SimpleNamespace(module=average)  # type: ignore[assignment]
    progress = SimpleNamespace(current=SimpleNamespace(completed=3))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    return SimpleNamespace(
        world_size=count, global_rank=rank, accumulate_grad_batches=1, fit_loop=loop, callbacks=[weight_average]
    )


def test_each_rank_resumes_with_its_own_statistics_and_means(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gathered: list[Any] = []  # instead of ranks that wait for each other

    def gather(values: list[Any], value: Any) -> None:
        gathered.append(value)
        values[: len(gathered)] = gathered

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    ranks = [(Network(), Network()) for _ in range(2)]
    checkpoint: dict[str, Any] = {}
    for rank, (network, average) in enumerate(ranks):
        network.train_means.update({f"rank {rank}": (torch.tensor(2.0), 3)})
        ExactResume().on_save_checkpoint(rank_trainer(rank, 2, average), network, checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved_ranks(checkpoint) == 2
    for rank, count in ((0, 2), (1, 2), (1, 3)):  # among another number of ranks, all have those of rank 0
        network, average = Network(), Network()
        resume, resumed_trainer = ExactResume(), rank_trainer(rank, count, average)
        resume.on_load_checkpoint(resumed_trainer, network, checkpoint)
        resume.on_train_start(resumed_trainer, network)
        expected = ranks[rank if count == 2 else 0]
        for restored, saved in zip((network, average), expected, strict=True):
            for name in ("running_mean", "running_var"):
                assert torch.equal(getattr(restored.layers[1], name), getattr(saved.layers[1], name))
        assert network.train_means.state_dict() == expected[0].train_means.state_dict()


def test_one_rank_saves_no_buffer_twice() -> None:
    checkpoint: dict[str, Any] = {}
    ExactResume().on_save_checkpoint(rank_trainer(0, 1, Network()), Network(), checkpoint)
    assert checkpoint == {"exact_resume": {"ranks": [{"means": {}}], "loss_terms": []}}
    assert saved_ranks(checkpoint) == saved_ranks({}) == 1


class Batches:
    """Six batches, of which the first `start` are already done."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from (batch(4, seed) for seed in range(self.start, len(self)))


class StopAt(L.Callback):
    """Saves a checkpoint and stops as a batch begins."""

    def __init__(self, batch_idx: int, path: Path) -> None:
        self.batch_idx, self.path = batch_idx, path

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch_idx:
            trainer.save_checkpoint(self.path)
            raise KeyError("stop")


def test_a_plain_trainer_resumes_within_an_accumulation_window(tmp_path: Path) -> None:
    """Also the gradients that the window has summed up, and the epoch's mean loss."""

    def fit(*callbacks: L.Callback, checkpoint: Path | None = None) -> tuple[Any, float]:
        model = make()
        model.loss_terms.append(L1(0.01))
        fitting = trainer(tmp_path, accumulate_grad_batches=3, callbacks=[ExactResume(), *callbacks])
        fitting.fit(model, Batches(2 if checkpoint else 0), ckpt_path=checkpoint, weights_only=True)
        return state(model), float(fitting.callback_metrics["train/loss"])

    expected, expected_loss = fit()
    path = tmp_path / "a.ckpt"
    with pytest.raises(KeyError, match="stop"):
        fit(StopAt(2, path))
    assert "gradients" in torch.load(path, weights_only=True)["exact_resume"]
    weights, loss = fit(checkpoint=path)
    assert all(torch.equal(weights[name], value) for name, value in expected.items()) and loss == expected_loss
