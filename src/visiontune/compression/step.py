"""What a recipe is made of."""

import json
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from omegaconf import DictConfig, open_dict

from visiontune.analysis.results import report
from visiontune.deployment.evaluation import evaluate_run
from visiontune.errors import UserError
from visiontune.loggers import open_loggers
from visiontune.runs.directory import RunDirectory
from visiontune.runs.environment import environment
from visiontune.runs.files import write_json
from visiontune.runs.log import logging_to
from visiontune.train import best_of, measured
from visiontune.training.build import build_data
from visiontune.training.load import load_model


class Step(ABC):
    """Makes a run of a run. Its YAML in `configs/recipe/` gives the constructor's arguments.

    Attributes:
        adjustable: names of those arguments that say what is good enough. Until the step has finished they may change.
    """

    adjustable: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def check(self, cfg: DictConfig) -> DictConfig:
        """Find what is wrong before any step of the recipe runs.

        Args:
            cfg: of the run that `apply` will be given, which need not be there yet.

        Returns:
            The config of the run that `apply` will make, as far as the next step's check needs it.

        Raises:
            UserError: what this step cannot do with such a run, and what can be done instead.
        """

    @abstractmethod
    def apply(self, source: RunDirectory, output: Path) -> RunDirectory:
        """Make the run `output`. What a killed process left there is gone on with, or done again."""


def config_of(source: RunDirectory) -> DictConfig:
    """The config of a run that a step is given: with `compressed_from`, and the command line in `said`."""
    cfg = source.read_config()
    with open_dict(cfg):
        cfg.compressed_from = str(source.path)
        cfg.said = json.loads(source.environment.read_text())["overrides"]
    return cfg


def derived(source: RunDirectory, cfg: DictConfig, output: Path) -> RunDirectory:
    """A new run directory, of the same splits as `source` and saying that it came from it, without checkpoints.

    What lies in `output` already is removed: it is the rest of a killed process.

    Args:
        cfg: `source`'s config as the step changed it.
    """
    shutil.rmtree(output, ignore_errors=True)
    run = RunDirectory.create(output)
    with open_dict(cfg):
        cfg.run_dir, cfg.weights_from, cfg.compressed_from = str(output), None, str(source.path)
        said = cfg.pop("said", None) or config_of(source).said
    run.write_config(cfg)
    write_json(run.environment, environment(cfg.seed, list(said)))
    shutil.copy(source.splits, run.splits)
    return run


def concluded(run: RunDirectory) -> None:
    """Measure a run that no training made, and write what `train` writes at its end."""
    cfg = run.read_config()
    with run.running() as outcome, logging_to(run.log), open_loggers(cfg, run.path) as loggers:
        data = build_data(cfg)
        data.assign_as(run.splits)
        model, _ = load_model(run, cfg)
        results = [evaluate_run(run, cfg, model, data, split) for split in measured(cfg, data)]
        report(cfg, run, data, model, results, loggers)
        outcome["objective"] = best_of(run, model, results)


def in_floats(cfg: DictConfig, step: str) -> None:
    """Raises UserError where the run's model is a file of integers."""
    if cfg.get("backend"):
        raise UserError(f"the run is quantized already: {step} takes the run that it was made of, and int8 comes last")


def lost(before: float, after: float, mode: str) -> float:
    """Points (hundredths); of a metric that is no share, such as an error or decibels, percent of it."""
    worse = before - after if mode == "max" else after - before
    return 100 * worse / (1.0 if mode == "max" and before <= 1 else max(abs(before), 1e-12))
