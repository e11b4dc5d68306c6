"""`strategy=auto`: short trainings with a few strategies decide which one the run has."""

import csv
import math
import os
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict

from visiontune.analysis.tables import render
from visiontune.config.compose import train_config
from visiontune.errors import UserError
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_atomically
from visiontune.runs.log import log, logging_to
from visiontune.search.lr_range import NoLossFell, RangeTest, range_test
from visiontune.training.build import build_data
from visiontune.training.fit import prepare

AUTO = "auto"
OWN = ("candidates", "epochs", "pictures")  # keys that are no arguments of a strategy
FEWEST_EPOCHS = 3  # of a trial, so that a schedule of several phases has them all
FEWEST_STEPS = 50  # else trials end where they began, at the probe, and say nothing


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
    taken: Trial | None = None

    def write(self, run: RunDirectory) -> None:
        """`report/trials.csv`, a table in the log, and what the range test writes."""
        if self.range_test is not None:
            self.range_test.write(run)
            rate = f"{self.range_test.chosen:.2e}"
            log.info(f"range test: the loss fell up to optimizer.lr={rate}, {run.report / 'lr_range.png'}\n")
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
            log.info(render("trials", [*names[:-2], "seconds", self.monitor], shown))
        if self.taken is not None:
            log.info(f"taken: strategy={self.taken.strategy} optimizer.lr={self.taken.lr:.2e}\n")


def chosen_by_trial(
    cfg: DictConfig,
    overrides: list[str],
    complete: Callable[[DictConfig], DictConfig],
    train: Callable[[DictConfig], float],
) -> tuple[DictConfig, Tried]:
    """`cfg` without an `auto`, and how it was found.

    With `strategy=auto` each candidate trains for a share of the epochs on a share of the training images; then the
    best of them does once more with the learning rate that the range test finds, if any, and with the geometric mean of
    that and its own: the range test's is the highest that a few steps bear. Where the command line has a rate there is
    no range test.

    Args:
        cfg: a complete config.
        overrides: of the command line.
        complete: makes a composed config complete.
        train: one run, to the monitored metric on the validation split.
    """
    trials = "candidates" in cfg.strategy
    if not trials and cfg.optimizer.lr != AUTO:
        return cfg, Tried()
    _check_place(cfg)
    if not trials:
        alone = range_test(cfg)
        cfg.optimizer.lr = alone.chosen
        return cfg, Tried(range_test=alone)
    ways = {name: complete(composed(overrides, name)) for name in candidates(cfg)}
    for way in ways.values():
        way.run_dir, way.sweep_dir = cfg.run_dir, cfg.sweep_dir  # else of another moment, which names a sweep's folder
        way.epochs = _checked(way).epochs
    known = any(override.lstrip("+").startswith("optimizer.lr=") for override in overrides) and cfg.optimizer.lr != AUTO
    tested = None if known else _range_test(next(iter(ways.values())))
    if tested is not None and cfg.optimizer.lr == AUTO:
        for way in ways.values():
            way.optimizer.lr = tested.chosen
    results = [(_tried(cfg, way, name, train), way) for name, way in ways.items()]
    (first, _), way = _best(results)
    if tested is not None and first.lr != tested.chosen:
        for rate in (tested.chosen, math.sqrt(tested.chosen * first.lr)):
            other = way.copy()
            other.optimizer.lr = rate
            results.append((_tried(cfg, other, first.strategy, train), other))
    (taken, monitor), way = _best(results)
    return way, Tried(tuple(trial for (trial, _), _ in results), tested, monitor["name"], taken)


def _range_test(way: DictConfig) -> RangeTest | None:
    """None where it finds no rate, and the trials can do without."""
    try:
        return range_test(way)
    except NoLossFell:
        if way.optimizer.lr == AUTO:
            raise
    with logging_to(None):
        log.info(f"range test: the loss fell at no rate; optimizer.lr={way.optimizer.lr:.2e} stays")
    return None


def candidates(cfg: DictConfig) -> list[str]:
    """Names of the strategies to try.

    Raises:
        UserError: none, `auto` itself, or a share out of range.
    """
    names = cfg.strategy.candidates
    if isinstance(names, str) or not names or AUTO in names:
        raise UserError(
            f"strategy.candidates={names}: write the strategies to try, such as "
            "strategy.candidates=[gradual_unfreeze,full]"
        )
    for key in ("epochs", "pictures"):
        share = cfg.strategy[key]
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise UserError(f"strategy.{key}={share}: write a share above 0 and at most 1, such as strategy.{key}=0.5")
    return list(names)


def _check_place(cfg: DictConfig) -> None:
    """Raises UserError where a run directory will be refused: after the trials it would be late."""
    place = Path(cfg.run_dir).expanduser() if cfg.run_dir else None
    if place is not None and place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise UserError(f"{place} is not empty: name another run_dir, or continue a run in it with run={place}")


def _checked(way: DictConfig) -> DictConfig:
    """With the number of epochs that the strategy may set; what is wrong with a candidate is said before any trains."""
    way = way.copy()
    if way.optimizer.lr == AUTO:
        way.optimizer.lr = 1.0
    prepare(way, download=False, load=False)
    return way


def composed(overrides: list[str], strategy: str) -> DictConfig:
    """The config of the command line with another strategy for `auto`.

    Raises:
        UserError: a file has `auto` in a list.
    """
    kept, named = [], False
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        if key == "strategy":
            chosen = override.value()
            several = [strategy if name == AUTO else name for name in chosen] if isinstance(chosen, list) else []
            kept.append(f"strategy=[{','.join(several)}]" if several else f"strategy={strategy}")
            named = True
        elif key not in [f"strategy.{own}" for own in OWN]:
            kept.append(str(override.input_line))
    if not named and HydraConfig.get().runtime.choices.get("strategy") != AUTO:  # a list, which nobody can read back
        raise UserError(
            "strategy=auto beside others in a file: write them as strategy=[auto,l2_sp] on the command line"
        )
    kept += [] if named else [f"strategy={strategy}"]
    cfg = train_config(kept)
    with open_dict(cfg):
        for own in OWN:  # that a file of the user's gives
            cfg.strategy.pop(own, None)
    return cfg


def _tried(cfg: DictConfig, way: DictConfig, name: str, train: Callable[[DictConfig], float]) -> _Result:
    """Train with `way` for a share of everything."""
    way = way.copy()
    epochs = max(FEWEST_EPOCHS, round(cfg.strategy.epochs * way.trainer.max_epochs))
    data = build_data(way)
    pictures = len(data.samples("train"))
    with TemporaryDirectory() as folder, open_dict(way):
        if way.data.per_class is None:
            enough = math.ceil(FEWEST_STEPS / epochs) * data.batch_size
            pictures = way.data.limit_train = min(pictures, max(enough, round(cfg.strategy.pictures * pictures)))
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
