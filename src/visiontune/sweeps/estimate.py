"""An estimate of the time of a sweep before its first job, from a few batches of each kind of job."""

import math
import os
import random
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig

from visiontune.config.derive import derive
from visiontune.data import VisionData
from visiontune.errors import pluralize
from visiontune.models.finetuner import FineTuner
from visiontune.runs.log import announce, logging_to
from visiontune.strategies.freezing import freeze
from visiontune.sweeps.workers.progress import format_duration
from visiontune.sweeps.workers.slots import Slot
from visiontune.sweeps.workers.worker import CONTEXT
from visiontune.training.fit import prepare
from visiontune.training.resolve import AUTO
from visiontune.training.short_trainer import build_short_trainer

ENOUGH_SECONDS = 1.5  # no further kind is measured after this time
MIN_KINDS = 3  # are measured if there is time, since a probe and a whole network take different times
LIMIT_SECONDS = 20.0  # of all measurements; large networks on a CPU take longer
JOB_SECONDS = 2.0  # the process of a job, its checkpoints, and its report
BATCHES = 2  # of each epoch that is measured; the first one also allocates memory


def announce_time(
    kinds: Sequence[tuple[DictConfig, int]], jobs: int, workers: int, slot: Slot, is_pruned: bool = False
) -> None:
    """Print how long the jobs of a sweep will take, unless it cannot be known.

    Args:
        kinds: resolved configs, and the number of jobs that are like each.
        jobs: that wait.
        workers: number of jobs at the same time.
        slot: what each job gets of this machine.
        is_pruned: whether jobs may stop early.
    """
    if not jobs or any(cfg.search for cfg, _ in kinds):  # trials train for an unknown time
        return
    seconds, measured = estimate(kinds, slot)
    if measured:
        is_less = is_pruned or any(cfg.frozen_features.cache != "none" for cfg, _ in kinds)
        duration = format_duration(seconds * math.ceil(jobs / workers))
        announce(
            f"  time: {'at most' if is_less else 'about'} {duration} with {pluralize(workers, 'worker', 'workers')}, "
            f"estimated from a few batches of {measured} of {pluralize(len(kinds), 'kind', 'kinds')} of jobs"
        )


def estimate(kinds: Sequence[tuple[DictConfig, int]], slot: Slot) -> tuple[float, int]:
    """Estimate the seconds of one job, the mean over kinds of jobs, and count the kinds that were measured.

    Another process trains a few batches, so it can run out of memory, and this one keeps its memory and random state.
    Data-loader workers, the writing of files, and what jobs take from each other are not measured.

    Returns:
        NaN and 0 if no kind could be measured.
    """
    order = random.Random(0).sample(range(len(kinds)), len(kinds))  # a grid begins with similar ones
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_measure, args=([kinds[i][0] for i in order], slot, sender), daemon=True)
    process.start()
    sender.close()
    started, seconds = time.monotonic(), []
    while receiver.poll(max(0.0, started + LIMIT_SECONDS - time.monotonic())):
        try:
            seconds.append(receiver.recv())
        except EOFError:
            break
    process.kill()
    process.join()
    weights = [kinds[i][1] for i in order[: len(seconds)]]
    total = sum(value * weight for value, weight in zip(seconds, weights, strict=True))
    return (total / sum(weights) if weights else math.nan), len(weights)


def _measure(configs: list[DictConfig], slot: Slot, results: Connection) -> None:
    """Send the seconds of a job with each config."""
    slot.use()
    with open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), 1)
        os.dup2(devnull.fileno(), 2)
    started = time.monotonic()
    for count, cfg in enumerate(configs, 1):
        results.send(measure_job(cfg))
        if count >= MIN_KINDS and time.monotonic() - started > ENOUGH_SECONDS:
            return


def measure_job(cfg: DictConfig) -> float:
    """Estimate the seconds of a job in this process."""
    started = time.perf_counter()
    cfg = derive(cfg, {"frozen_features.cache": "none"} | ({"optimizer.lr": 1.0} if cfg.optimizer.lr == AUTO else {}))
    with logging_to(None, quiet=True):
        data, model, _ = prepare(cfg, download=False, load=False)
        building = time.perf_counter() - started
        clock = _Clock(cfg.trainer.max_epochs)
        _fit(cfg, data, model, clock)
    ranks = cfg.trainer.devices
    training, validating = (math.ceil(len(data.samples(split)) / data.batch_size / ranks) for split in ("train", "val"))
    seconds = cfg.trainer.max_epochs * (training * clock.step() + validating * clock.validation_step)
    seconds += (validating + training * bool(cfg.probe)) * clock.validation_step
    return JOB_SECONDS + building + seconds


def _fit(cfg: DictConfig, data: VisionData, model: FineTuner, clock: "_Clock") -> None:
    limits = {"limit_train_batches": BATCHES * len(clock.epochs), "limit_val_batches": BATCHES}
    trainer = build_short_trainer(cfg, [clock], max_epochs=1, num_sanity_val_steps=0, **limits)
    data.num_workers = 0
    trainer.fit(model, datamodule=data)


class _Clock(L.Callback):
    """Measures training steps with the stages that train in the last, the middle and the first epoch."""

    def __init__(self, epochs: int) -> None:
        self.epochs = (epochs - 1, epochs // 2, 0)
        self.steps: dict[int, float] = {}  # by epoch: seconds of its fastest batch
        self.validation_step = math.inf
        self._last = self._total = 0.0

    def step(self) -> float:
        return sum(self.steps.values()) / len(self.steps)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._elapsed(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % BATCHES == 0:
            freeze(pl_module.stages(), pl_module.strategy, self.epochs[batch_idx // BATCHES])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        epoch, seconds = self.epochs[batch_idx // BATCHES], self._elapsed(trainer)
        self.steps[epoch] = min(seconds, self.steps.get(epoch, seconds))
        self._total += seconds
        trainer.should_stop = batch_idx > 0 and self._total > ENOUGH_SECONDS

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._elapsed(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.validation_step = min(self.validation_step, self._elapsed(trainer))

    def _elapsed(self, trainer: L.Trainer) -> float:
        """Seconds since the last call."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        last, self._last = self._last, time.perf_counter()
        return self._last - last
