"""How far the weights of two ranks drift apart after unfreezing, with BackboneFinetuning and with gradual_unfreeze.

python -m benchmarks.drift [--epochs 6]

Lightning's callback and our strategy train the same small network from the same weights on the same digits, in two
processes (gloo): only the heads for two epochs, then everything. The table has the largest difference of any weight
between the ranks after each epoch.
"""

import argparse
import json
import os
import socket
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose
from lightning.pytorch.callbacks import BackboneFinetuning
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig
from torch.nn.utils import parameters_to_vector

from benchmarks.document import machine, markdown, write_block
from visiontune.config.compose import initialized
from visiontune.models.finetuner import FineTuner
from visiontune.runs.log import logging_to
from visiontune.training.build import distributed
from visiontune.training.fit import prepare

UNFREEZE_AT = 2  # the first epoch, from 0, in which the backbone trains


class PlainModule(L.LightningModule):
    """The backbone and head of a FineTuner, as in Lightning's documentation."""

    def __init__(self, model: FineTuner) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.heads["classification"]
        self.lr = model.make_optimizer.keywords["lr"]

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        raw = self.head(self.backbone(batch["image"]))
        return self.head.loss(raw, batch["targets"]["classification"])["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.lr)


class Drift(L.Callback):
    """Measures the largest difference of any weight between the ranks after each epoch."""

    def __init__(self) -> None:
        self.differences: list[float] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        weights = parameters_to_vector([p.detach().contiguous() for p in pl_module.parameters()])
        ranks = [torch.empty_like(weights) for _ in range(trainer.world_size)]
        torch.distributed.all_gather(ranks, weights)
        self.differences.append(float((ranks[0] - ranks[1]).abs().max()))


def config(epochs: int) -> DictConfig:
    overrides = [
        "backbone=small_cnn",
        "backbone.widths=[16,32]",
        "data.image_size=16",
        "data.batch_size=32",
        "data.num_workers=0",
        "trainer=ddp_cpu",
        f"trainer.max_epochs={epochs}",
        "strategy=gradual_unfreeze",
        f"strategy.head_epochs={UNFREEZE_AT}",
        "strategy.unfrozen_by=0",
    ]
    with initialized(None):
        return compose("train", overrides=overrides)


def fit_rank(rank: int, epochs: int, port: int, out: Path) -> None:
    """Run one rank of each training, one after the other."""
    drifts = {}
    unfreeze = partial(BackboneFinetuning, unfreeze_backbone_at_epoch=UNFREEZE_AT)
    trainings: dict[str, tuple[Any, list[L.Callback], Any]] = {
        "`BackboneFinetuning`": (PlainModule, [unfreeze()], DDPStrategy()),
        "`BackboneFinetuning`, `find_unused_parameters=True`": (
            PlainModule,
            [unfreeze()],
            DDPStrategy(find_unused_parameters=True),
        ),
        "visiontune": (lambda model: model, [], distributed("ddp")),
    }
    for name, (build_module, callbacks, strategy) in trainings.items():
        os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        torch.set_num_threads(1)
        drift = Drift()
        with logging_to(None, quiet=True):
            data, model, _ = prepare(config(epochs))
            L.Trainer(
                max_epochs=epochs,
                accelerator="cpu",
                devices=2,
                strategy=strategy,
                callbacks=[*callbacks, drift],
                use_distributed_sampler=False,
                limit_val_batches=0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            ).fit(build_module(model), datamodule=data)
        drifts[name] = drift.differences
    if rank == 0:
        out.write_text(json.dumps(drifts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    epochs = parser.parse_args().epochs
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "drifts.json"
        torch.multiprocessing.spawn(fit_rank, (epochs, port, out), nprocs=2)
        drifts: dict[str, list[float]] = json.loads(out.read_text())
    columns = ["training", *(f"epoch {epoch + 1}" for epoch in range(epochs))]
    rows = [[name, *(f"{value:.1e}" if value else "0" for value in values)] for name, values in drifts.items()]
    text = f"{machine()}.\n\n{markdown(columns, rows)}"
    print(text)
    write_block("drift", text)


if __name__ == "__main__":
    main()
