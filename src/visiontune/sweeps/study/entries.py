"""The runs of a comparison: what each was asked, and what came of it."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from visiontune.errors import UserError
from visiontune.runs.directory import RunDirectory
from visiontune.sweeps.study.objectives import pareto_front, read_values

SOUP = "soup.json"  # in a run whose weights are the mean of those of other runs


@dataclass(frozen=True)
class Entry:
    """One run, or a job of a sweep, which may have no run yet.

    Attributes:
        path: the run directory, which a job that has not begun lacks.
        overrides: of the command line.
        status: the content of status.json.
        metrics: the content of metrics.json.
        epochs: number of epochs that the run has trained.
        error: why a job has failed; empty for other runs.
        modes: the objectives of the sweep, name -> `max` or `min`; empty if it has none but those of its runs.
        values: of these objectives; NaN for one that the run does not have.
        read_config: reads the config of the run.
    """

    path: Path
    overrides: list[str]
    status: dict[str, Any]
    read_config: Callable[[], DictConfig] = lambda: DictConfig({})
    metrics: dict[str, float] = field(default_factory=dict)
    epochs: int = 0
    error: str = ""
    modes: Mapping[str, str] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long the last process of the run has taken."""
        return float(self.status.get("updated", 0.0) - self.status.get("started", 0.0))

    @property
    def is_soup(self) -> bool:
        """Whether the run was made from others, so that it repeats no experiment."""
        return (self.path / SOUP).is_file()


def read_run(run: RunDirectory, modes: Mapping[str, str] | None = None) -> Entry:
    """The entry of a run.

    Args:
        modes: the objectives of its sweep. The first one replaces that of the run.

    Raises:
        UserError: a file of the run cannot be read.
    """
    status, values = run.read_status(), {}
    if modes and status.get("objective"):
        values = read_values(run, modes)
        name = next(iter(modes))
        status = status | {
            "objective": status["objective"] | {"name": name, "mode": modes[name], "value": values[name]}
        }
    return Entry(
        run.path,
        run.read_overrides(),
        status,
        run.read_config,
        run.read_metrics(),
        count_epochs(run),
        modes=modes or {},
        values=values,
    )


def find_front(entries: Sequence[Entry]) -> set[Path]:
    """The runs on the Pareto front of their objectives; empty unless all have the same objectives, two or more."""
    modes = [entry.modes for entry in entries if entry.values]
    if not modes or len(modes[0]) < 2 or any(other != modes[0] for other in modes):
        return set()
    finished = [entry for entry in entries if entry.values and entry.status["status"] == "finished"]
    front = pareto_front([list(entry.values.values()) for entry in finished], list(modes[0].values()))
    return {finished[position].path for position in front}


def count_epochs(run: RunDirectory) -> int:
    """The number of epochs that the run has trained."""
    if not run.history.is_file():
        return 0
    try:
        with run.history.open(newline="") as file:
            return max((int(row["epoch"]) for row in csv.DictReader(file)), default=0)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{run.history}: expected a table with a whole number in the column epoch") from error
