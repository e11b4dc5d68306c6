"""`strategy=auto`: short trainings with a few strategies decide which one the run has."""

import csv
import os
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, fields
from tempfile import TemporaryDirectory
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict

from visiontune.build import data_of
from visiontune.choosing.lr_range import RangeTest, range_test
from visiontune.cli import config_dir
from visiontune.report.tables import render
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_atomically
from visiontune.runs.log import log, logging_to

AUTO = "auto"
FEWEST = 3  # epochs of a trial, so that a schedule of several phases has them all


@dataclass(frozen=True)
class Trial:
    """One short training, and the monitored metric of its best epoch on the validation split."""

    strategy: str
    lr: float
    epochs: int
    pictures: int
    seconds: float
    score: float


_Result = tuple[Trial, dict[str, Any]]  # and the run's objective


@dataclass(frozen=True)
class Tried:
    """What was tried before a run; empty where nothing is `auto`."""

    trials: tuple[Trial, ...] = ()
    range_test: RangeTest | None = None
    monitor: str = ""

    def write(self, run: RunDirectory) -> None:
        """`report/trials.csv`, a table in the log, and what the range test writes."""
        if self.range_test is not None:
            self.range_test.write(run)
            log.info(f"learning rate: {self.range_test.chosen:.2e} by the range test, {run.report / 'lr_range.png'}\n")
        if self.trials:
            names = [field.name for field in fields(Trial)]
            rows: list[list[object]] = [list(asdict(trial).values()) for trial in self.trials]
            with write_atomically(run.report / "trials.csv") as file:
                writer = csv.writer(file)
                writer.writerow(names)
                writer.writerows(rows)
            shown: list[list[object]] = [
                [t.strategy, f"{t.lr:.2e}", t.epochs, t.pictures, f"{t.seconds:.0f}", f"{t.score:.4f}"]
                for t in self.trials
            ]
            log.info(render("trials", [*names[:-2], "seconds", self.monitor], shown) + "\n")


def chosen_by_trial(
    cfg: DictConfig,
    overrides: list[str],
    complete: Callable[[DictConfig], DictConfig],
    train: Callable[[DictConfig], float],
) -> tuple[DictConfig, Tried]:
    """`cfg` without an `auto`, and how it was found.

    With `strategy=auto` each candidate trains for a share of the epochs on a share of the training pictures; then the
    best of them does once more with the learning rate that the range test finds, unless the command line has one.

    Args:
        cfg: a complete config.
        overrides: of the command line.
        complete: makes a composed config complete.
        train: one run, to the monitored metric on the validation split.
    """
    if "candidates" not in cfg.strategy:
        if cfg.optimizer.lr != AUTO:
            return cfg, Tried()
        tested = range_test(cfg)
        cfg.optimizer.lr = tested.chosen
        return cfg, Tried(range_test=tested)
    ways = {name: complete(composed(overrides, name)) for name in cfg.strategy.candidates}
    tested = range_test(ways[cfg.strategy.candidates[0]])
    fixed = any(override.startswith("optimizer.lr=") for override in overrides)
    if cfg.optimizer.lr == AUTO:
        for way in ways.values():
            way.optimizer.lr = tested.chosen
    results = [(_tried(cfg, way, name, train), way) for name, way in ways.items()]
    if not fixed:
        (first, _), way = _best(results)
        faster = way.copy()
        faster.optimizer.lr = tested.chosen
        results.append((_tried(cfg, faster, first.strategy, train), faster))
    (_, monitor), way = _best(results)
    return way, Tried(tuple(trial for (trial, _), _ in results), tested, monitor["name"])


def composed(overrides: list[str], strategy: str) -> DictConfig:
    """The config of the command line with another strategy for `auto`."""
    kept, named = [], False
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        if key == "strategy":
            chosen = override.value()
            several = chosen if isinstance(chosen, list) else [AUTO]
            kept.append(f"strategy=[{','.join(strategy if name == AUTO else name for name in several)}]")
            named = True
        elif key not in ("strategy.candidates", "strategy.epochs", "strategy.pictures"):
            kept.append(str(override.input_line))
    kept += [] if named else [f"strategy={strategy}"]
    if GlobalHydra.instance().is_initialized():
        return compose("train", overrides=kept)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):  # in a process of a launcher
        return compose("train", overrides=kept)


def _tried(cfg: DictConfig, way: DictConfig, name: str, train: Callable[[DictConfig], float]) -> _Result:
    """Train with `way` for a share of everything."""
    way = way.copy()
    epochs = max(FEWEST, round(cfg.strategy.epochs * way.trainer.max_epochs))
    pictures = len(data_of(way).samples("train"))
    with TemporaryDirectory() as folder, open_dict(way):
        if way.data.per_class is None:
            pictures = way.data.limit_train = max(1, round(cfg.strategy.pictures * pictures))
        way.trainer.max_epochs = epochs
        way.test, way.logger, way.run_dir = False, {}, f"{folder}/run"
        started = time.perf_counter()
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            score = train(way)
        objective = RunDirectory.open(way.run_dir).read_status()["objective"]
    trial = Trial(name, way.optimizer.lr, epochs, pictures, time.perf_counter() - started, score)
    with logging_to(None):
        what = f"trial: strategy={name} optimizer.lr={trial.lr:.2e}"
        log.info(f"{what}: {objective['name']} {score:.4f}, {trial.seconds:.0f} s")
    return trial, objective


def _best(results: list[tuple[_Result, DictConfig]]) -> tuple[_Result, DictConfig]:
    """Of equal scores the first."""
    _, objective = results[0][0]
    sign = 1 if objective["mode"] == "max" else -1
    return max(results, key=lambda result: sign * result[0][0].score)
