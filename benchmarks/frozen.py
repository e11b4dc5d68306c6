"""How much time freezing saves: a linear probe with and without the cache, and a training step with k frozen stages.

python -m benchmarks.frozen data.root=FOLDER [--epochs 10] [--rounds 5] [OVERRIDES ...]

The first table has the training time of `strategy=linear_probe` and of Lightning's BackboneFinetuning with the same
network and images, used as in its documentation (frozen for all epochs, NCHW). The second table has, for each k, the
median time of a training step (EfficientNet-Lite0, batches of 32) with the first k stages frozen: the whole step, its
frozen part, and the rest, measured in turn.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
from hydra import compose
from lightning.pytorch.callbacks import BackboneFinetuning
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.document import machine, markdown, write_block
from visiontune.config.compose import initialized
from visiontune.data import VisionData
from visiontune.frozen_features.plans import stage_paths
from visiontune.models.replay import FrozenOutputs, plan_replay, record_outputs, replay
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import logging_to
from visiontune.training.build import build_trainer
from visiontune.training.fit import fit, prepare

BATCH, SIDE = 32, 160


def config(overrides: list[str]) -> DictConfig:
    base = ["data=image_folder", f"data.image_size={SIDE}", f"data.batch_size={BATCH}", "augment=standard"]
    with initialized(None):
        return compose("train", overrides=[*base, "strategy=linear_probe", "name=bench", "test=false", *overrides])


class PlainModule(L.LightningModule):
    """A module with a `backbone`, as in the documentation of BackboneFinetuning."""

    def __init__(self, cfg: DictConfig, data: VisionData) -> None:
        super().__init__()
        _, model, _ = prepare(cfg)
        self.backbone = _Embedding(model.backbone).to(memory_format=torch.contiguous_format)
        self.head = nn.Linear(model.backbone.embedding_dim, len(data.schema["classification"].classes))

    def loss(self, batch: dict[str, Any]) -> Tensor:
        target = torch.tensor(batch["targets"]["classification"])
        return F.cross_entropy(self.head(self.backbone(batch["image"].contiguous())), target)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=len(batch["index"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-3)


class _Embedding(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> Tensor:
        return self.backbone(image).embedding


def time_plain_module(cfg: DictConfig) -> float:
    """Seconds of the fit with BackboneFinetuning."""
    data, _, _ = prepare(cfg)
    trainer = L.Trainer(
        max_epochs=cfg.epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=cfg.epochs)], use_distributed_sampler=False,
        num_sanity_val_steps=0, default_root_dir=tempfile.mkdtemp(),
    )  # fmt: skip
    model = PlainModule(cfg, data)
    started = time.perf_counter()
    trainer.fit(model, datamodule=data)
    return time.perf_counter() - started


def time_visiontune(cfg: DictConfig) -> float:
    """Seconds of the fit with visiontune, including its probe, first validation, checkpoints and curves."""
    data, model, _ = prepare(cfg)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run")
        with logging_to(run.log, quiet=True):
            started = time.perf_counter()
            fit(cfg, run, build_trainer(cfg, run, model), model, data, None)
            return time.perf_counter() - started


def time_probes(overrides: list[str], epochs: int) -> str:
    """The table of the linear probes."""
    trainings = {
        "BackboneFinetuning": None,
        "linear_probe": [],
        "linear_probe, cache, 2 views": ["frozen_features.cache=memory"],
        "linear_probe, cache, 1 view": ["frozen_features.cache=memory", "frozen_features.views=1"],
    }
    rows, first = [], 0.0
    for name, more in trainings.items():
        cfg = config([*overrides, f"epochs={epochs}", *(more or [])])
        seconds = time_plain_module(cfg) if more is None else time_visiontune(cfg)
        first = first or seconds
        rows.append([name, f"{seconds:.1f} s", f"{first / seconds:.1f}"])
        print(rows[-1], flush=True)
    return markdown([f"{epochs} epochs of", "training time", "faster by"], rows)


def time_steps(overrides: list[str], rounds: int) -> str:
    """The table of the training steps."""
    data, model, _ = prepare(config(overrides))
    network, stages = model.backbone.model, model.stages()
    image = torch.rand(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    targets = [i % len(data.schema["classification"].classes) for i in range(BATCH)]

    def train(frozen: FrozenOutputs | None = None) -> None:
        with replay(network, frozen):
            loss = model.heads["classification"].loss(model(image)["classification"], targets)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    rows = []
    for count in range(len(stages)):
        model.eval()
        for i, (_, stage) in enumerate(stages):
            stage.requires_grad_(i >= count)
            stage.train(i >= count)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
        times: dict[str, list[float]] = {"whole": [], "frozen": [], "rest": []}
        calls: dict[str, Any] = {"whole": train}
        if count:
            plan = plan_replay(model.forward, network, stage_paths(model, count), image[:2])
            assert plan is not None
            with torch.no_grad():
                outputs = FrozenOutputs(record_outputs(model.forward, network, plan.paths, image), plan.shapes)
                calls["frozen"] = torch.no_grad()(
                    lambda plan=plan: record_outputs(model.forward, network, plan.paths, image)
                )
            calls["rest"] = lambda outputs=outputs: train(outputs)
        for turn in range(rounds + 1):
            for name, call in calls.items():
                started = time.perf_counter()
                call()
                if turn:
                    times[name].append(1000 * (time.perf_counter() - started))
        whole, frozen, rest = (median(values) if values else 0.0 for values in times.values())
        ratio = f"{whole / (frozen + rest):.2f}" if count else ""
        rows.append([str(count), f"{whole:.0f}", f"{frozen:.0f}", f"{rest:.0f}", ratio])
    return markdown(["frozen stages", "step, ms", "frozen part forwards", "the rest alone", "step / sum"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options, overrides = parser.parse_known_args()
    text = f"{machine()}.\n\n{time_probes(overrides, options.epochs)}\n\n{time_steps(overrides, options.rounds)}"
    print(text)
    write_block("frozen", text)


if __name__ == "__main__":
    main()
