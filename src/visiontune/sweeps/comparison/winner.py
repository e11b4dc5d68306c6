"""The winner of a sweep: the experiment with the best objective on the validation split."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from visiontune.errors import UserError
from visiontune.sweeps.comparison.groups import REPEATS, Row, measure_overlap, summarize_groups
from visiontune.sweeps.study.entries import Entry


@dataclass(frozen=True)
class Winner:
    """The runs of the best experiment.

    Attributes:
        settings: the values in which it differs from the other experiments; empty if there are no others.
        runs: names of its finished runs in the table.
        metric: the objective, on the test split.
        overlap: of the test splits of its runs, see `compare_groups`.
    """

    settings: str
    runs: list[str]
    metric: str
    overlap: float

    @property
    def name(self) -> str:
        """Its settings, or its run if there are no other experiments."""
        return self.settings or f"run {self.runs[0]}"


def find_winner(rows: list[Row], entries: Mapping[str, Entry]) -> Winner:
    """The group of seeds with the best mean, or the best run if no two runs repeat an experiment.

    Args:
        rows: the table of the runs.
        entries: the runs by their name in the table.

    Raises:
        UserError: as `rank_runs`, or the runs are folds of a cross-validation.
    """
    ranked = rank_runs(entries)
    varying = list(rows[0])[1 : list(rows[0]).index("objective")]
    if "data.fold" in varying:
        raise UserError(
            "--test: the held-out folds are the test split, and each run has evaluated its fold: `visiontune compare "
            "DIR` prints their means"
        )
    keys = [key for key in varying if key not in REPEATS]
    best = next((group for group in summarize_groups(rows, entries) if group["verdict"] == "best"), None)
    if best is None:
        members = [row for row in rows if row["run"] == ranked[0]]
    else:
        members = [row for row in rows if row["run"] in ranked and all(row[key] == best[key] for key in keys)]
    return Winner(
        " ".join(f"{key}={members[0][key]}" for key in keys),
        sorted(row["run"] for row in members),
        f"test/{members[0]['objective'].partition('/')[2]}",
        measure_overlap(members, entries, [key for key in varying if key in REPEATS], "test"),
    )


def rank_runs(entries: Mapping[str, Entry]) -> list[str]:
    """The names of the runs that have finished, the best objective first.

    Raises:
        UserError: there are none, or they have several objectives, or one that is no metric of the validation split.
    """
    statuses = {name: entry.status for name, entry in entries.items() if entry.status["status"] == "finished"}
    objectives = {name: status["objective"] for name, status in statuses.items() if status.get("objective")}
    objectives = {name: objective for name, objective in objectives.items() if math.isfinite(objective["value"])}
    if not objectives:
        raise UserError("no run has finished, so none is the best")
    modes = {(objective["name"], objective["mode"]) for objective in objectives.values()}
    modes |= {item for entry in entries.values() for item in entry.modes.items()}
    if len(modes) > 1:
        raise UserError(
            f"the runs have several objectives, so none is the best: {', '.join(sorted(name for name, _ in modes))}. "
            "Choose a run by its validation metrics, and test it with visiontune evaluate run=DIR"
        )
    ((objective, mode),) = modes
    if not objective.startswith("val/"):
        raise UserError(f"the objective {objective} is no metric of the validation split, which chooses the best run")
    sign = -1 if mode == "max" else 1
    return sorted(objectives, key=lambda name: sign * objectives[name]["value"])
