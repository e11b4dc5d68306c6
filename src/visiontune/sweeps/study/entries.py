"""The runs of a comparison: what each was asked, and what came of it."""

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from visiontune.errors import UserError
from visiontune.runs.directory import RunDirectory

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
        read_config: reads the config of the run.
    """

    path: Path
    overrides: list[str]
    status: dict[str, Any]
    read_config: Callable[[], DictConfig] = lambda: DictConfig({})
    metrics: dict[str, float] = field(default_factory=dict)
    epochs: int = 0
    error: str = ""

    @property
    def seconds(self) -> float:
        """How long the run has taken, or the last process that trained it."""
        return float(self.status.get("updated", 0.0) - self.status.get("started", 0.0))

    @property
    def is_soup(self) -> bool:
        """Whether the run was made from others, so that it repeats no experiment."""
        return (self.path / SOUP).is_file()


def read_run(run: RunDirectory) -> Entry:
    """The entry of a run.

    Raises:
        UserError: a file of the run cannot be read.
    """
    return Entry(
        run.path, run.read_overrides(), run.read_status(), run.read_config, run.read_metrics(), count_epochs(run)
    )


def count_epochs(run: RunDirectory) -> int:
    """The number of epochs that the run has trained."""
    if not run.history.is_file():
        return 0
    try:
        with run.history.open(newline="") as file:
            return max((int(row["epoch"]) for row in csv.DictReader(file)), default=0)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{run.history}: expected a table with a whole number in the column epoch") from error
