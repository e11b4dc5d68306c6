"""What a sweep shows while it runs: a line for each job that starts or ends, and on a terminal a live table."""

import csv
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from visiontune.errors import visible
from visiontune.runs.log import announce, logging_to, warn_on_failure
from visiontune.sweeps.comparison.table import write_table
from visiontune.sweeps.study.entries import Entry, find_front
from visiontune.sweeps.study.paths import run_path
from visiontune.sweeps.study.pruning import STOP
from visiontune.sweeps.study.sweep import Sweep

SHOWN_SECONDS = 2.0  # between two updates of the live table


class Progress:
    """Shows the jobs of a sweep, and keeps its sweep.csv current."""

    def __init__(self, sweep: Sweep, workers: int) -> None:
        """Args:
        workers: number of jobs at the same time.
        """
        self._sweep = sweep
        self._workers = workers
        self._console = Console(highlight=False, markup=False)
        self._live: Live | None = None
        self._updated = 0.0
        self._running: dict[int, str] = {}
        self._pruned = {entry.path for entry in self._write_table() if entry.status["status"] == "pruned"}

    @contextmanager
    def live_table(self) -> Iterator[None]:
        """Show the live table within the block, on a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as self._live:
            yield
        self._live = None

    def started(self, trial: FrozenTrial) -> None:
        """Show a job that starts."""
        self._running[trial.number] = trial.user_attrs["text"]
        self._print_pruned(self._write_table())
        stop, is_resumed = trial.user_attrs.get(STOP), self._epoch(trial.number) != ""
        self._print(trial, ("resumes" if is_resumed else "starts") + (f", up to epoch {stop}" if stop else ""))

    def ended(self, trial: FrozenTrial) -> None:
        """Show what has become of a job."""
        self._running.pop(trial.number, None)
        entries = self._write_table()
        if trial.state == TrialState.COMPLETE:
            entry = next(entry for entry in entries if entry.path == run_path(self._sweep.path, trial.number))
            objective = entry.status["objective"]
            scores = entry.values or {objective["name"]: objective["value"]}
            text = ", ".join(f"{name} {value:.{4 if abs(value) < 100 else 0}f}" for name, value in scores.items())
            self._print(trial, f"{text}, {entry.seconds:.0f} s; {self._summary(entries)}")
        elif trial.state == TrialState.FAIL:
            self._print(trial, f"failed: {trial.user_attrs['error']}; {self._summary(entries)}")
        elif trial.state == TrialState.WAITING:
            stop = trial.user_attrs.get(STOP)
            is_paused = stop is not None and self._epoch(trial.number) == str(stop)
            self._print(trial, f"waits after epoch {stop} for the other jobs" if is_paused else "stopped, and waits")
        self._print_pruned(entries)

    def _print_pruned(self, entries: list[Entry]) -> None:
        """Show the jobs that were pruned since the last time."""
        pruned = [entry for entry in entries if entry.status["status"] == "pruned" and entry.path not in self._pruned]
        self._pruned |= {entry.path for entry in pruned}
        trials = {run_path(self._sweep.path, trial.number): trial for trial in self._sweep.latest()} if pruned else {}
        for entry in pruned:
            score = f", {entry.status['objective']['value']:.4f}" if "objective" in entry.status else ""
            self._print(trials[entry.path], f"pruned after epoch {entry.epochs}{score}")

    def update(self) -> None:
        """Update the live table, at most every two seconds."""
        if self._live is None or time.monotonic() - self._updated < SHOWN_SECONDS:
            return
        self._updated = time.monotonic()
        table = Table(box=None, pad_edge=False)
        for column in ("run", "epoch", "job"):
            table.add_column(column, no_wrap=True)
        for number, text in self._running.items():
            table.add_row(f"{number:03d}", self._epoch(number), visible(text))
        self._live.update(Group(table, Text(self._summary(self._sweep.entries()))), refresh=True)

    def _print(self, trial: FrozenTrial, text: str) -> None:
        line = f"{trial.number:03d}  {trial.user_attrs['text']}: {text}"
        if self._live is None:
            announce(line)
        else:
            self._console.print(visible(line))

    def _summary(self, entries: list[Entry]) -> str:
        """How many jobs are done, the best one, and the time that is left."""
        statuses = [entry.status["status"] for entry in entries]
        finished = [entry for entry in entries if entry.status["status"] == "finished"]
        ended = {status: statuses.count(status) for status in ("failed", "pruned")}
        done = len(finished) + sum(ended.values())
        parts = [f"{done} of {len(entries)} done"] + [f"{count} {status}" for status, count in ended.items() if count]
        if finished:
            if front := find_front(entries):
                parts.append(f"{len(front)} on the Pareto front")
            else:
                sign = 1 if self._sweep.study.direction == StudyDirection.MAXIMIZE else -1
                best = max(finished, key=lambda entry: sign * entry.status["objective"]["value"])
                parts.append(f"best {best.status['objective']['value']:.4f} ({best.path.name})")
            remaining = len(entries) - done
            seconds = fmean(entry.seconds for entry in finished) * remaining / self._workers
            parts += [f"about {format_duration(seconds)} left"] * bool(remaining)
        return ", ".join(parts)

    def _epoch(self, number: int) -> str:
        """The last epoch in the metrics.csv of a run."""
        path = run_path(self._sweep.path, number) / "metrics.csv"
        try:
            with path.open(newline="") as file:
                return [row["epoch"] for row in csv.DictReader(file)][-1]
        except (OSError, KeyError, IndexError):  # it has no epoch yet
            return ""

    def _write_table(self) -> list[Entry]:
        path = self._sweep.path / "sweep.csv"
        with self._sweep.locks.schedule():
            entries = self._sweep.entries()
            with logging_to(None), warn_on_failure(f"{path} is not current"):
                write_table(entries, path)
        return entries


def format_duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
