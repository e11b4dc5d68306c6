"""Callbacks that tests add to a config; the ranks of a distributed run can import them."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch

from visiontune.training import launch


class Paths(L.Callback):
    """Appends the paths of every training batch to `folder/RANK.jsonl`."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(batch["path"]) + "\n")


class Failure(L.Callback):
    """Raises an error in the second epoch."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("out of luck")


class Stop(L.Callback):
    """Raises an error before batch `batch` of epoch `epoch`, but only once."""

    def __init__(self, epoch: int, batch: int, folder: str) -> None:
        self.place, self.stopped = (epoch, batch), Path(folder)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        mark = self.stopped / f"stopped{trainer.global_rank}"
        if (trainer.current_epoch, batch_idx) == self.place and not mark.exists():
            mark.touch()
            raise RuntimeError("out of luck")


States = list[dict[str, torch.Tensor]]


class Weights(L.Callback):
    """Saves `trained/KEY` and `validated/KEY` before the first epoch and after each epoch to `folder/RANK.pt`."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.states: States = []
        self.validated: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.states.append(state(pl_module, "trained"))

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.validated = state(pl_module, "validated")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.states.append(state(pl_module, "trained") | self.validated)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save(self.states, self.folder / f"{trainer.global_rank}.pt")


def state(module: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
    return {f"{name}/{key}": value.detach().clone() for key, value in module.state_dict().items()}


def fit_all(rank: int, count: int, port: int, paths: list[Path]) -> None:
    """Train several runs one after another, as one of `count` ranks."""
    for path in paths:
        launch._fit_rank(rank, count, port, path, None)
