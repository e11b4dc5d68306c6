"""The base class of the steps of a recipe, and functions that all steps use."""

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from omegaconf import DictConfig

from visiontune.analysis.results import report
from visiontune.config.derive import derive
from visiontune.deployment.evaluation import evaluate_run
from visiontune.errors import UserError
from visiontune.loggers import open_loggers
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import logging_to
from visiontune.training.build import build_data
from visiontune.training.derived_run import create_derived_run
from visiontune.training.evaluation import best_score, measured_splits
from visiontune.training.load import load_model


class Step(ABC):
    """Makes a new run from a run. Its YAML in `configs/recipe/` gives the constructor's arguments.

    Attributes:
        adjustable: names of arguments that are limits. They may change until the step has finished.
    """

    adjustable: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def check(self, cfg: DictConfig) -> DictConfig:
        """Find errors before any step of the recipe runs.

        Args:
            cfg: the config of the run that `apply` will get, which need not exist yet.

        Returns:
            The config of the run that `apply` will make, as far as the next step's check needs it.

        Raises:
            UserError: the step does not work for such a run; the message says what does.
        """

    @abstractmethod
    def apply(self, source: RunDirectory, output: Path) -> RunDirectory:
        """Make the run `output` from `source`; resume or repeat a step that was killed."""


def source_config(source: RunDirectory) -> DictConfig:
    """The config of a step's source, with its path as `compressed_from` and its command line as `overrides`."""
    return derive(source.read_config(), {"compressed_from": str(source.path), "overrides": source.read_overrides()})


def derive_run(source: RunDirectory, cfg: DictConfig, output: Path) -> RunDirectory:
    """Create a run directory with the splits of `source` and `compressed_from` in its config, without checkpoints.

    An unfinished run of a killed process in `output` is deleted.

    Args:
        cfg: the config of `source` with the changes of the step.
    """
    shutil.rmtree(output, ignore_errors=True)
    overrides = cfg.get("overrides") or source_config(source).overrides
    changes = {"weights_from": None, "compressed_from": str(source.path)}
    return create_derived_run(output, source, derive(cfg, changes, without=["overrides"]), overrides)


def finalize_run(run: RunDirectory) -> None:
    """Evaluate a run that was not trained, and write the results that `train` writes at its end."""
    cfg = run.read_config()
    with run.running() as outcome, logging_to(run.log), open_loggers(cfg, run.path) as loggers:
        data = build_data(cfg)
        data.assign_as(run.splits)
        model, _ = load_model(run, cfg)
        results = [evaluate_run(run, cfg, model, data, split) for split in measured_splits(cfg, data)]
        report(cfg, run, data, model, results, loggers)
        outcome["objective"] = best_score(run, model, results)


def require_float_model(cfg: DictConfig, step: str) -> None:
    """Raise UserError if the run's model is a quantized file."""
    if cfg.get("backend"):
        raise UserError(
            f"the run is already quantized: {step} needs the run that it was made from; int8 is the last step"
        )


def metric_drop(before: float, after: float, mode: str) -> float:
    """How much worse `after` is: in points (hundredths), or in percent for errors and decibels."""
    worse = before - after if mode == "max" else after - before
    return 100 * worse / (1.0 if mode == "max" and before <= 1 else max(abs(before), 1e-12))
