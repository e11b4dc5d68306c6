"""`search=strategy` and `optimizer.lr=auto`: short trainings choose the strategy and the learning rate of a run."""

import csv
import math
import os
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, fields
from tempfile import TemporaryDirectory

from omegaconf import DictConfig

from visiontune.analysis.tables import render
from visiontune.config.derive import derive
from visiontune.config.launch import Launch
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_atomically
from visiontune.runs.log import log, logging_to
from visiontune.search.lr_range import NoLossFell, RangeTest, range_test
from visiontune.training.build import build_data
from visiontune.training.fit import prepare
from visiontune.training.resolve import AUTO, candidate_configs

MIN_EPOCHS = 3  # a trial has all phases of a schedule
MIN_STEPS = 50  # with fewer steps, a trial ends where it starts, at the linear probe


@dataclass(frozen=True)
class Trial:
    """One short training.

    Attributes:
        images: number of training images.
        score: the monitored metric of the best epoch on the validation split.
    """

    strategy: str
    lr: float
    epochs: int
    images: int
    seconds: float
    score: float


@dataclass(frozen=True)
class Candidate:
    """A config, its trial, and the `name` and `mode` of the monitored metric."""

    cfg: DictConfig
    trial: Trial
    objective: dict[str, str]


@dataclass(frozen=True)
class SearchResult:
    """The trials and the range test that chose the settings of a run."""

    trials: tuple[Trial, ...] = ()
    range_test: RangeTest | None = None
    monitor: str = ""
    best: Trial | None = None

    def write(self, run: RunDirectory) -> None:
        """Write `report/trials.csv` and the range test's files, and log the trials."""
        if self.range_test is not None:
            self.range_test.write(run)
            lr = f"{self.range_test.lr:.2e}"
            log.info(f"range test: the loss fell up to optimizer.lr={lr}, {run.report / 'lr_range.png'}\n")
        if self.trials:
            names = [field.name for field in fields(Trial)]
            with write_atomically(run.report / "trials.csv") as file:
                writer = csv.writer(file)
                writer.writerow(names)
                writer.writerows(list(asdict(trial).values()) for trial in self.trials)
            rows: list[list[object]] = [
                [
                    trial.strategy,
                    f"{trial.lr:.2e}",
                    trial.epochs,
                    trial.images,
                    f"{trial.seconds:.0f}",
                    f"{trial.score:.4f}",
                ]
                for trial in self.trials
            ]
            log.info(render("trials", [*names[:-2], "seconds", self.monitor], rows))
        if self.best is not None:
            log.info(f"chosen: strategy={self.best.strategy} optimizer.lr={self.best.lr:.2e}\n")


def search(
    cfg: DictConfig, launch: Launch, train: Callable[[DictConfig], float]
) -> tuple[DictConfig, SearchResult | None]:
    """Choose the strategy and the learning rate of `cfg`; return the new config and how it was chosen.

    If `cfg` has neither `search` nor `optimizer.lr=auto`, return `cfg` and None. With `optimizer.lr=auto` alone, a
    range test chooses the highest learning rate at which the loss still falls. With `search=strategy`, each candidate
    trains for a fraction of the epochs on a fraction of the training images. Two more trials train the best candidate
    with other learning rates: that of the range test, and the geometric mean of that and the candidate's.

    Args:
        cfg: resolved.
        train: runs one config, and returns the monitored metric on the validation split.

    Raises:
        UserError: a candidate's config is wrong, or the loss falls at no learning rate.
    """
    if cfg.search is None and cfg.optimizer.lr != AUTO:
        return cfg, None
    test: RangeTest | None = None
    if cfg.search is None:
        test = range_test(cfg)
        return derive(cfg, {"optimizer.lr": test.lr}), SearchResult(range_test=test)
    configs = candidate_configs(cfg, launch)
    for config in configs.values():  # raise the errors of all candidates before the first trains
        prepare(_with_lr(config, 1.0), download=False, load=False)
    if cfg.search.lr_range_test or cfg.optimizer.lr == AUTO:
        test = _range_test(next(iter(configs.values())))
    if test is not None:
        configs = {name: _with_lr(config, test.lr) for name, config in configs.items()}
    candidates = [_run_trial(cfg, config, name, train) for name, config in configs.items()]
    best = _best(candidates)
    if test is not None and best.trial.lr != test.lr:
        for lr in (test.lr, math.sqrt(test.lr * best.trial.lr)):
            config = derive(best.cfg, {"optimizer.lr": lr})
            candidates.append(_run_trial(cfg, config, best.trial.strategy, train))
    best = _best(candidates)
    trials = tuple(candidate.trial for candidate in candidates)
    return best.cfg, SearchResult(trials, test, best.objective["name"], best.trial)


def _with_lr(cfg: DictConfig, lr: float) -> DictConfig:
    """`cfg` with a learning rate in place of `auto`."""
    return derive(cfg, {"optimizer.lr": lr}) if cfg.optimizer.lr == AUTO else cfg


def _range_test(cfg: DictConfig) -> RangeTest | None:
    """Run a range test; None if the loss falls at no learning rate and the config has one."""
    try:
        return range_test(cfg)
    except NoLossFell:
        if cfg.optimizer.lr == AUTO:
            raise
    with logging_to(None):
        log.info(f"range test: the loss fell at no learning rate; optimizer.lr={cfg.optimizer.lr:.2e} stays")
    return None


def _run_trial(cfg: DictConfig, config: DictConfig, name: str, train: Callable[[DictConfig], float]) -> Candidate:
    """Train `config`, whose strategy is `name`, for the fractions of epochs and images in `cfg.search`."""
    epochs = max(MIN_EPOCHS, round(cfg.search.epochs * config.trainer.max_epochs))
    data = build_data(config)
    images = len(data.samples("train"))
    changes = {"trainer.max_epochs": epochs, "test": False, "logger": {}, "checkpoints.pause_after": None}
    if config.data.per_class is None:
        min_images = math.ceil(MIN_STEPS / epochs) * data.batch_size
        images = changes["data.limit_train"] = min(images, max(min_images, round(cfg.search.images * images)))
    with TemporaryDirectory() as folder:
        changes["run_dir"] = f"{folder}/run"
        started = time.perf_counter()
        with open(os.devnull, "w") as devnull, redirect_stdout(devnull):
            score = train(derive(config, changes))
        objective = RunDirectory.open(changes["run_dir"]).read_status()["objective"]
    trial = Trial(name, config.optimizer.lr, epochs, images, time.perf_counter() - started, score)
    with logging_to(None):
        log.info(
            f"trial: strategy={name} optimizer.lr={trial.lr:.2e}: {objective['name']} {score:.4f}, "
            f"{trial.seconds:.0f} s"
        )
    return Candidate(config, trial, objective)


def _best(candidates: list[Candidate]) -> Candidate:
    """The candidate with the best score; the first of equal scores."""
    sign = 1 if candidates[0].objective["mode"] == "max" else -1
    return max(candidates, key=lambda candidate: sign * candidate.trial.score)
