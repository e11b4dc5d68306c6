"""Grid, halving and searches on equal budgets of epochs: the best validation score that each of them finds.

python -m benchmarks.searches [--folder logs/search_benchmark] [--replays 4]

A grid of 24 configurations is trained on the digits with five seeds, once. The other methods are replayed on the
recorded curves, since runs are deterministic and resume exactly; one halving sweep is trained to check this. It takes
about 15 minutes on two cores, and writes the block `searches` of docs/sweeps.md.
"""

import argparse
import itertools
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from statistics import fmean, stdev

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from benchmarks.document import DOCS, machine, markdown, write_block
from visiontune.sweeps.study.curves import read_curve
from visiontune.sweeps.study.halving import JobScores, decide
from visiontune.sweeps.study.pruner import Pruner
from visiontune.sweeps.study.sweep import Sweep

EPOCHS, SEEDS, METRIC = 9, 5, "val/classification/accuracy"
SPACE = {
    "optimizer.lr": ("0.001", "0.003", "0.01", "0.03", "0.1", "0.3"),
    "optimizer": ("adamw", "sgd"),
    "strategy": ("full", "gradual_unfreeze"),
}
COMMON = "trainer=cpu backbone=small_cnn backbone.widths=[8,16] backbone.depth=1"
DATA = "data.image_size=16 data.limit_train=600 data.batch_size=16 data.num_workers=0 augment=none technique=[none]"
COMMAND = [*COMMON.split(), *DATA.split(), "logger=none", "probe=false", "sweep.threads=1", f"epochs={EPOCHS}"]
PRUNER = Pruner("halving", 1, 3, 25, 5, EPOCHS, METRIC, "max")
Configuration = tuple[str, ...]


@dataclass(frozen=True)
class Recording:
    """A run of the grid.

    Attributes:
        best: the best score after each number of epochs from 0 on, as metrics.csv has it.
        objective: of the run.
    """

    best: list[float]
    objective: float


Recordings = dict[Configuration, list[Recording]]  # of each seed


def train(folder: Path, seeds: range, *more: str) -> Path:
    """Train a sweep, or what is missing of it."""
    values = [f"{key}={','.join(choices)}" for key, choices in SPACE.items()]
    arguments = [*values, f"seed={','.join(map(str, seeds))}", *COMMAND, *more, f"sweep_dir={folder}"]
    subprocess.run([sys.executable, "-m", "visiontune", "train", "-m", *arguments], check=True)
    return folder


def read(folder: Path) -> Recordings:
    """The runs of a sweep without pruner."""
    runs: Recordings = {configuration: [] for configuration in itertools.product(*SPACE.values())}
    for entry in sorted(Sweep(folder).entries(), key=lambda entry: _values(entry.overrides, "seed")):
        curve = [score for _, score in read_curve(entry.path / "metrics.csv", METRIC)]
        best = list(itertools.accumulate(curve, max))
        runs[_values(entry.overrides, *SPACE)].append(Recording(best, entry.status["objective"]["value"]))
    return runs


def _values(overrides: list[str], *keys: str) -> tuple[str, ...]:
    values = dict(override.split("=", 1) for override in overrides)
    return tuple(values[key] for key in keys)


def replay_halving(
    runs: Recordings, seeds: list[int], pruner: Pruner = PRUNER
) -> tuple[dict[tuple[Configuration, int], int], int]:
    """Epochs of each run of a halving sweep with these seeds, and their sum."""
    keys = list(itertools.product(runs, seeds))
    jobs = [JobScores(number, configuration, seed) for number, (configuration, seed) in enumerate(keys)]
    while any(not job.state.is_finished() for job in jobs):
        decision = decide(jobs, pruner.rungs(), pruner.factor)
        for number in decision.pruned:
            jobs[number] = replace(jobs[number], state=TrialState.PRUNED)
        for number, stop in decision.stops.items():
            configuration, seed = keys[number]
            epochs, state = (EPOCHS, TrialState.COMPLETE) if stop is None else (stop, TrialState.WAITING)
            scores = dict(enumerate(runs[configuration][seed].best[: epochs + 1]))
            jobs[number] = replace(jobs[number], scores=scores, epochs=epochs, state=state, stop=stop or inf)
    return {key: job.epochs for key, job in zip(keys, jobs, strict=True)}, sum(job.epochs for job in jobs)


def replay_search(runs: Recordings, seed: int, budget: int, sampler: BaseSampler, pruner: BasePruner) -> float:
    """The best score that a search with one worker finds within a number of epochs; suggestions may repeat."""
    study, best = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner), -inf
    while budget > 0:
        trial = study.ask()
        run = runs[tuple(trial.suggest_categorical(key, choices) for key, choices in SPACE.items())][seed]
        for epoch in range(1, min(EPOCHS, budget) + 1):
            budget -= 1
            best = max(best, run.best[epoch])
            trial.report(run.best[epoch], epoch)
            if epoch < EPOCHS and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, run.best[epoch])
    return best


def build_tpe(seed: int) -> TPESampler:
    """The sampler of `sweep.sampler=tpe`."""
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def build_optuna_pruner(name: str) -> BasePruner:
    return replace(PRUNER, name=name).build() or NopPruner()


METHODS: dict[str, tuple[Callable[[int], BaseSampler], Callable[[], BasePruner]]] = {
    "random": (RandomSampler, NopPruner),
    "tpe": (build_tpe, NopPruner),
    "random, median": (RandomSampler, partial(build_optuna_pruner, "median")),
    "random, hyperband": (RandomSampler, partial(build_optuna_pruner, "hyperband")),
    "tpe, hyperband": (build_tpe, partial(build_optuna_pruner, "hyperband")),
}


def summarize(scores: list[float]) -> str:
    """The mean over seeds, and its standard error."""
    return f"{fmean(scores):.4f} ± {stdev(scores) / len(scores) ** 0.5:.4f}"


class Halving:
    """Replays of halving: one for each seed, and one for all seeds together."""

    def __init__(self, runs: Recordings, grid: list[float], min_epochs: int) -> None:
        pruner, total = replace(PRUNER, min_epochs=min_epochs), EPOCHS * len(runs)
        ends = [replay_halving(runs, [seed], pruner) for seed in range(SEEDS)]
        self.best = [
            max(runs[configuration][seed].objective for (configuration, _), epochs in jobs.items() if epochs == EPOCHS)
            for seed, (jobs, _) in enumerate(ends)
        ]
        (self.epochs,) = {epochs for _, epochs in ends}
        means = {configuration: fmean(run.objective for run in records) for configuration, records in runs.items()}
        together, _ = replay_halving(runs, list(range(SEEDS)), pruner)
        winner = max(means[configuration] for (configuration, _), count in together.items() if count == EPOCHS)
        differences = summarize([a - b for a, b in zip(self.best, grid, strict=True)])
        self.text = (
            f"With min_epochs={min_epochs}, halving uses {self.epochs / total:.2f} of the epochs, and its difference "
            f"from the grid is {differences}, mean over {SEEDS} seeds and its standard error. With all seeds in one "
            f"sweep, the mean of its winner is {winner:.4f}; the best mean of the grid is {max(means.values()):.4f}."
        )


def compare(runs: Recordings, replays: int) -> str:
    """The table of all methods."""
    total = EPOCHS * len(runs)
    grid = [max(run[seed].objective for run in runs.values()) for seed in range(SEEDS)]
    halvings = [Halving(runs, grid, min_epochs) for min_epochs in (1, 2)]
    budgets = [*(halving.epochs for halving in halvings), total]
    rows = [["grid", "", "", summarize(grid)]]
    for i, halving in enumerate(halvings):
        cells = [""] * len(budgets)
        cells[i] = summarize(halving.best)
        rows.append([f"halving, min_epochs={i + 1}", *cells])
    for name, (sampler, pruner) in METHODS.items():
        cells = []
        for budget in budgets:
            best = [
                fmean(replay_search(runs, seed, budget, sampler(replay), pruner()) for replay in range(replays))
                for seed in range(SEEDS)
            ]
            cells.append(summarize(best))
        rows.append([name, *cells])
    table = markdown(["best val accuracy within", *(f"{budget} epochs" for budget in budgets)], rows)
    return f"{table}\n\n{' '.join(halving.text for halving in halvings)}"


def check_replay(runs: Recordings, folder: Path) -> str:
    """Whether a halving sweep with the first seed has the table of the replay."""
    jobs, _ = replay_halving(runs, [0])
    entries = {_values(entry.overrides, *SPACE): entry for entry in Sweep(folder).entries()}
    for (configuration, seed), epochs in jobs.items():
        entry, run = entries[configuration], runs[configuration][seed]
        value = run.objective if epochs == EPOCHS else run.best[epochs]
        if (entry.epochs, entry.status["objective"]["value"]) != (epochs, value):
            return f"{entry.path.name} DIFFERS"
    return "equal"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("logs/search_benchmark"), help="of the sweeps")
    parser.add_argument("--replays", type=int, default=4, help="replays of each search and seed")
    options = parser.parse_args()
    folder = options.folder.absolute()
    grid = train(folder / "grid", range(SEEDS))
    halving = train(folder / "halving", range(1), "sweep.pruner=halving", "sweep.pruning.min_epochs=1")
    runs = read(grid)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    text = (
        f"{machine()}. Replays of {options.replays} searches with each seed.\n\n{compare(runs, options.replays)} The "
        f"table of a trained halving sweep and that of its replay: {check_replay(runs, halving)}."
    )
    print(text)
    write_block("searches", text, DOCS / "sweeps.md")


if __name__ == "__main__":
    main()
