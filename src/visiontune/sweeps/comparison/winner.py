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
        UserError: no run has finished, the runs have several objectives, or they are folds of a cross-validation.
    """
    scored = [row for row in rows if row["status"] == "finished" and math.isfinite(row["value"])]
    if not scored:
        raise UserError("--test: no run has finished, so there is no winner")
    objectives = sorted({row["objective"] for row in scored})
    if len(objectives) > 1:
        raise UserError(
            f"--test: expected runs with the same objective, got {', '.join(objectives)}; evaluate a run with "
            "visiontune evaluate run=DIR"
        )
    varying = list(rows[0])[1 : list(rows[0]).index("objective")]
    if "data.fold" in varying:
        raise UserError(
            "--test: the held-out folds are the test split, and each run has evaluated its own: `visiontune compare "
            "DIR` prints their means"
        )
    keys = [key for key in varying if key not in REPEATS]
    best = next((group for group in summarize_groups(rows, entries) if group["verdict"] == "best"), None)
    if best is None:
        sign = 1 if entries[scored[0]["run"]].status["objective"]["mode"] == "max" else -1
        best = max(scored, key=lambda row: sign * row["value"])
        members = [best]
    else:
        members = [row for row in scored if all(row[key] == best[key] for key in keys)]
    return Winner(
        " ".join(f"{key}={best[key]}" for key in keys),
        sorted(row["run"] for row in members),
        f"test/{objectives[0].partition('/')[2]}",
        measure_overlap(members, entries, [key for key in varying if key in REPEATS], "test"),
    )
