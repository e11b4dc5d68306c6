"""Images per second of a FineTuner under the Trainer, with all of its logging, and of training loops written by hand.

python -m benchmarks.speed [--rounds 5] [--images 400]

All train the same network (EfficientNet-Lite0, all stages) on the same images with the same augmentation, one epoch
each in turn, in one process, without clipping and averaging, which the loops do not have. The numbers are medians over
the rounds, the ratios medians of the ratios of each round.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import numpy as np
import torch
from hydra import compose
from omegaconf import DictConfig
from PIL import Image
from torch import nn
from torch.nn import functional as F

from benchmarks.document import machine, markdown, write_block
from visiontune.config.compose import initialized
from visiontune.data import VisionData
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import logging_to
from visiontune.training.build import build_trainer
from visiontune.training.fit import prepare


class Loop:
    """An ordinary training loop, with or without `channels_last`."""

    def __init__(self, cfg: DictConfig, data: VisionData, channels_last: bool) -> None:
        _, model, _ = prepare(cfg)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.data = data
        self.net = nn.Sequential(_Embedding(model.backbone), nn.Linear(model.backbone.embedding_dim, 6))
        self.net = self.net.to(memory_format=self.format).train()
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-4)

    def epoch(self) -> float:
        """Train one epoch; return the images per second."""
        loader = self.data.train_dataloader()
        start, count = time.perf_counter(), 0
        for batch in loader:
            image = (batch["image"].float() / 255).contiguous(memory_format=self.format)
            loss = F.cross_entropy(self.net(image), torch.tensor(batch["targets"]["classification"]))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            count += len(image)
        return count / (time.perf_counter() - start)


class _Embedding(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.backbone(image).embedding


class Alternate(L.Callback):
    """Trains one epoch of each loop before each epoch of the Trainer; the first round is warm-up."""

    def __init__(self, loops: dict[str, Loop], images: int) -> None:
        self.loops, self.images = loops, images
        self.rounds: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.speeds = {name: loop.epoch() for name, loop in self.loops.items()}
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.speeds["FineTuner"] = self.images / (time.perf_counter() - self.started)
        if trainer.current_epoch > 0:
            self.rounds.append(self.speeds)


def measure(folder: Path, images: int, rounds: int) -> list[dict[str, float]]:
    _draw(folder / "photos", images)
    overrides = [
        "data=image_folder", f"data.root={folder / 'photos'}", "data.image_size=160", "data.cache=memory",
        "data.num_workers=0", "augment=standard", "strategy=full", "strategy.batchnorm=train", "probe=false",
        "trainer=cpu", "trainer.gradient_clip_val=null", "technique=none",
        "name=bench", "test=false", f"trainer.max_epochs={rounds + 1}", "trainer.limit_val_batches=0",
    ]  # fmt: skip
    with initialized(None):
        cfg = compose("train", overrides=overrides)
    data, model, _ = prepare(cfg)
    loops = {"loop, NCHW": Loop(cfg, data, channels_last=False), "loop, channels_last": Loop(cfg, data, True)}
    alternate = Alternate(loops, len(data.samples("train")))
    run = RunDirectory.create(folder / "run")
    with logging_to(run.log, quiet=True):
        trainer = build_trainer(cfg, run, model)
        unused = ("InitialValidation", "EarlyStopping")
        trainer.callbacks = [alternate, *(c for c in trainer.callbacks if type(c).__name__ not in unused)]
        trainer.fit(model, datamodule=data)
    return alternate.rounds


def _draw(folder: Path, count: int) -> None:
    """Photo-sized JPEGs of smooth noise, in six classes."""
    generator = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"class{i % 6}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((512, 384), Image.Resampling.BICUBIC).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds = measure(Path(folder), options.images, options.rounds)
    rows = []
    for name in rounds[0]:
        speeds = [speeds_of_round[name] for speeds_of_round in rounds]
        ratios = [speeds_of_round["FineTuner"] / speeds_of_round[name] for speeds_of_round in rounds]
        rows.append([name, f"{median(speeds):.1f}", f"{min(speeds):.1f} to {max(speeds):.1f}", f"{median(ratios):.2f}"])
    text = f"{machine()}; {options.rounds} rounds.\n\n" + markdown(
        ["training", "images a second", "range", "FineTuner is faster by"], rows
    )
    print(text)
    write_block("speed", text)


if __name__ == "__main__":
    main()
