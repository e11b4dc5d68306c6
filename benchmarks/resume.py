"""How much time exact resuming costs: until the first step of a resumed run, and in every step.

python -m benchmarks.resume [--rounds 5]

Start: the time from the command `visiontune train` (default network, digits) to the end of the first step, for a new
run and for a run that resumes from a checkpoint within the second epoch, in turn. Steps: epochs of one training, in
turn with and without the parts that make resuming exact (seeds of images and steps, sums of the epoch, the check
whether a checkpoint is due), six pairs of epochs per round.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
from hydra import compose
from torchvision import tv_tensors

from benchmarks.document import machine, markdown, write_block
from visiontune import cli
from visiontune.callbacks import Checkpoints
from visiontune.config.compose import initialized
from visiontune.data.dataset import VisionDataset
from visiontune.models import finetuner
from visiontune.models.epoch_means import EpochMeans
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import logging_to
from visiontune.training.build import build_trainer
from visiontune.training.fit import prepare

START = ["trainer=cpu", "data.limit_train=256", "strategy=full", "checkpoints.every_steps=2", "test=false"]
NETWORKS = {
    "EfficientNet-Lite0, 64 x 64": ["data.limit_train=512"],
    "small CNN, 28 x 28": ["backbone=small_cnn", "data.image_size=28"],
}
PAIRS = 6  # an epoch takes seconds, and its time varies by some per cent


def exit_after(batches: int) -> None:
    """End the process as soon as that many batches have trained."""
    remaining = [batches]

    def hook(*_: Any) -> None:
        remaining[0] -= 1
        if remaining[0] == 0:
            os._exit(0)

    FineTuner.on_train_batch_end = hook  # type: ignore[method-assign]


def time_command(batches: int, *overrides: str) -> float:
    """Seconds of `visiontune train` until that many batches have trained."""
    command = [sys.executable, "-m", "benchmarks.resume", "--exit-after", str(batches), "train", *overrides]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def time_starts(folder: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds to the first step of new runs and of resumed runs."""
    time_command(7, *START, f"run_dir={folder / 'stopped'}")  # four steps are an epoch
    cold, resumed = [], []
    for i in range(rounds):
        cold.append(time_command(1, *START, f"run_dir={folder / f'cold{i}'}"))
        resumed.append(time_command(1, f"run={folder / 'stopped'}"))
    return cold, resumed


def get_item(self: VisionDataset, key: tuple[int, int]) -> dict[str, Any]:
    """`VisionDataset.__getitem__` with random numbers from the state of the process, as in most projects."""
    _, index = key
    image, targets, _, size = self._load(index)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    image, targets = self.transform(tv_tensors.Image(image), targets)
    torch.set_num_threads(threads)
    path = self.samples[index].path
    return {"image": image.as_subclass(torch.Tensor), "targets": targets, "index": index, "path": path, "size": size}


class Alternate(L.Callback):
    """Runs every other epoch without the parts that make resuming exact; the first two epochs are warm-up."""

    WITHOUT: tuple[tuple[Any, str, Any], ...] = (
        (FineTuner, "on_train_batch_start", lambda *_: None),
        (FineTuner, "on_train_batch_end", lambda *_: None),
        (EpochMeans, "update", lambda *_: None),
        (finetuner, "seed_step", lambda *_: None),
        (Checkpoints, "on_train_batch_start", lambda *_: None),
        (VisionDataset, "__getitem__", get_item),
    )
    WITH = tuple((owner, name, getattr(owner, name)) for owner, name, _ in WITHOUT)

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        for owner, name, hook in self.WITHOUT if trainer.current_epoch % 2 else self.WITH:
            setattr(owner, name, hook)
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.times.append(time.perf_counter() - self.started)

    def ratios(self) -> list[float]:
        """Time with these parts / time without them, for each pair of epochs."""
        return [self.times[i] / self.times[i + 1] for i in range(2, len(self.times), 2)]


def time_steps(folder: Path, overrides: list[str], rounds: int) -> Alternate:
    overrides = [
        *overrides, "trainer=cpu", "data.num_workers=0", "augment=standard", "augment.flip=false", "strategy=full",
        "probe=false", "name=bench", "test=false", f"trainer.max_epochs={2 * rounds + 2}",
        "trainer.limit_val_batches=0", "logger=none",
    ]  # fmt: skip
    with initialized(None):
        cfg = compose("train", overrides=overrides)
    data, model, _ = prepare(cfg)
    alternate = Alternate()
    run = RunDirectory.create(folder)
    with logging_to(run.log, quiet=True):
        trainer = build_trainer(cfg, run, model)
        unused = ("InitialValidation", "EarlyStopping")
        trainer.callbacks = [alternate, *(c for c in trainer.callbacks if type(c).__name__ not in unused)]
        trainer.fit(model, datamodule=data)
    return alternate


def main() -> None:
    if sys.argv[1:2] == ["--exit-after"]:
        exit_after(int(sys.argv[2]))
        sys.argv = ["visiontune", *sys.argv[3:]]
        return cli.main()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cold, resumed = time_starts(Path(folder), rounds)
        ratios = [second / first for first, second in zip(cold, resumed, strict=True)]
        columns = ["to the first step", "cold", "resumed", "resumed / cold", "range"]
        row = [f"{median(cold):.1f} s", f"{median(resumed):.1f} s", f"{median(ratios):.2f}"]
        start = markdown(columns, [["`visiontune train`", *row, f"{min(ratios):.2f} to {max(ratios):.2f}"]])
        for number, (name, overrides) in enumerate(NETWORKS.items()):
            alternate = time_steps(Path(folder) / f"steps{number}", overrides, PAIRS * rounds)
            ratios = alternate.ratios()
            exact, without = median(alternate.times[2::2]), median(alternate.times[3::2])
            row = [name, f"{exact:.2f} s", f"{without:.2f} s", f"{median(ratios):.3f}"]
            rows.append([*row, f"{min(ratios):.3f} to {max(ratios):.3f}"])
    columns = ["an epoch of", "exact", "without", "exact / without", "range"]
    text = f"{machine()}; {rounds} rounds.\n\n{start}\n\n{markdown(columns, rows)}"
    print(text)
    write_block("resume", text)


if __name__ == "__main__":
    main()
