"""The pruner of a sweep: how it decides which jobs stop early."""

from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig
from optuna.pruners import BasePruner, HyperbandPruner, PercentilePruner

from visiontune.errors import UserError

HALVING = "halving"
FIRST_RUNG = 0.2  # of the epochs; with factor 3, halving then uses 0.4 of those of a grid (docs/sweeps.md)


@dataclass(frozen=True)
class Pruner:
    """What every worker needs to prune, stored in sweep.yaml.

    Attributes:
        name: `halving`, `hyperband`, `median` or `percentile`.
        min_epochs: no job is pruned after fewer epochs.
        factor: of halving and hyperband: 1 / factor train on, for factor times as many epochs.
        percentile: of the pruner `percentile`: this percentage of jobs trains on.
        startup_jobs: number of finished jobs before `median` and `percentile` prune.
        max_epochs: of each job.
        monitor: the metric of the objective.
        mode: `max` or `min`.
    """

    name: str
    min_epochs: int
    factor: int
    percentile: float
    startup_jobs: int
    max_epochs: int
    monitor: str
    mode: str

    @property
    def sign(self) -> int:
        """1 or -1: a score times this is higher for a better one."""
        return 1 if self.mode == "max" else -1

    def rungs(self) -> list[int]:
        """The numbers of epochs after which halving prunes."""
        rungs, rung = [], self.min_epochs
        while rung < self.max_epochs:
            rungs.append(rung)
            rung *= self.factor
        return rungs

    def build(self) -> BasePruner | None:
        """The pruner of Optuna that decides on one job at a time; None for halving."""
        if self.name == HALVING:
            return None
        if self.name == "hyperband":
            return HyperbandPruner(self.min_epochs, self.max_epochs, self.factor)
        percentile = 50.0 if self.name == "median" else float(self.percentile)
        return PercentilePruner(percentile, n_startup_trials=self.startup_jobs, n_warmup_steps=self.min_epochs)


def build_pruner(
    sweep: DictConfig, configs: Sequence[DictConfig], objectives: set[tuple[str, str]], max_epochs: int
) -> Pruner | None:
    """The pruner of a sweep; None if all jobs train to their end.

    Args:
        sweep: the keys of `sweep`.
        configs: the composed config of each job.
        objectives: the name and the mode of the objectives of the jobs.
        max_epochs: of the first job.

    Raises:
        UserError: the jobs cannot be compared after equal numbers of epochs, or the pruner does not fit the sweep.
    """
    if any(cfg.checkpoints.pause_after is not None for cfg in configs):
        raise UserError(
            "checkpoints.pause_after is a key of single runs: leave it out of a sweep, or write sweep.pruner=halving, "
            "which pauses its jobs"
        )
    name, options = sweep.pruner, sweep.pruning
    if name == "none":
        return None
    if sweep.objectives:
        raise UserError(
            f"sweep.pruner={name} decides by the metric of the head after each epoch, and not by sweep.objectives: "
            "write one of both"
        )
    if len(objectives) > 1:
        names = ", ".join(sorted(objective for objective, _ in objectives))
        raise UserError(f"sweep.pruner={name} compares the objectives of the jobs, and these differ: {names}")
    if len({cfg.trainer.max_epochs for cfg in configs}) > 1:
        raise UserError(
            f"sweep.pruner={name} compares jobs after equal numbers of epochs, and those of this sweep have schedules "
            "of different lengths: write one number, such as epochs=30, or sweep.pruner=none"
        )
    if name == HALVING and sweep.sampler not in ("grid", "random"):
        raise UserError(
            f"sweep.sampler={sweep.sampler}: halving trains all suggestions up to its first decision, so the sampler "
            "would draw them without a score: write sweep.sampler=random, or sweep.pruner=hyperband"
        )
    if name != HALVING and sweep.workers == 0:
        raise UserError(
            f"sweep.workers=0: sweep.pruner={name} stops jobs that run, and those in the process of the command cannot "
            "be stopped: write sweep.workers=1 or sweep.pruner=halving"
        )
    min_epochs = options.min_epochs
    if min_epochs == "auto":
        min_epochs = max(1, round(FIRST_RUNG * max_epochs))
    if min_epochs >= max_epochs:
        raise UserError(
            f"sweep.pruning.min_epochs={min_epochs}: the jobs train for {max_epochs} epochs, so none could be "
            "pruned: write a smaller number, or more epochs"
        )
    (monitor, mode) = next(iter(objectives))
    percentile, startup = options.percentile, options.startup_jobs
    return Pruner(name, min_epochs, options.factor, percentile, startup, max_epochs, monitor, mode)


def check_same_pruner(before: dict[str, object] | None, now: dict[str, object] | None) -> None:
    """Check that a sweep is resumed with its pruner, since another would compare other numbers of epochs.

    Raises:
        UserError: it has another one.
    """
    if before == now:
        return
    texts = [_describe(values) for values in (now, before)]
    raise UserError("{}: the sweep in this directory has {}; write another sweep_dir=DIR".format(*texts))


def _describe(values: dict[str, object] | None) -> str:
    if values is None:
        return "sweep.pruner=none"
    return " ".join(f"{'sweep.pruner' if key == 'name' else key}={value}" for key, value in values.items())
