"""Callbacks that the tests name in a config; importable by the processes of a distributed run."""

import json
from pathlib import Path
from typing import Any

import lightning as L


class Paths(L.Callback):
    """Appends the paths of every training batch to `folder/RANK.jsonl`."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(batch["path"]) + "\n")


class Failure(L.Callback):
    """A fault in the second epoch."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("out of luck")
