"""What the page of a comparison shows, read from the runs."""

import math
import shlex
from pathlib import Path
from typing import Any

from visiontune.errors import UserError
from visiontune.runs.directory import RunDirectory
from visiontune.sweeps.page.markup import GENERATOR
from visiontune.sweeps.page.page import PageRun, SweepPage
from visiontune.sweeps.page.samples import compare_predictions
from visiontune.sweeps.study.curves import read_curve
from visiontune.sweeps.study.entries import Entry
from visiontune.sweeps.study.settings import FILE, Settings

Rows = list[dict[str, Any]]
START_BYTES = 1000  # of a page; they name its generator


def build_page(
    directories: list[Path],
    entries: list[Entry],
    rows: Rows,
    means: Rows,
    repeats: tuple[str, ...],
    results: list[str],
) -> SweepPage:
    """The page of runs.

    Args:
        directories: that are compared.
        rows: the table of the entries, the best first.
        means: over runs that differ only in the keys `repeats`.
        results: see `SweepPage`.
    """
    by_name = {name: entry for entry in entries for name in (entry.path.name, str(entry.path))}
    columns = list(rows[0])
    keys = columns[1 : columns.index("objective")]
    name, mode = next(
        ((row["objective"], by_name[row["run"]].status["objective"]["mode"]) for row in rows if row["objective"]),
        ("", "max"),
    )
    further = [column for column in columns if column not in ("run", "value", "status", "error", *keys)]
    if len({row["objective"] for row in rows if row["objective"]}) < 2:
        further.remove("objective")
        means = [{column: cell for column, cell in row.items() if column != "objective"} for row in means]
    runs = []
    for row in rows:
        entry = by_name[row["run"]]
        runs.append(
            PageRun(
                row["run"],
                {key: row[key] for key in keys},
                row["value"],
                row["status"],
                {column: row[column] for column in further},
                entry.error or _error(entry),
                _target(RunDirectory(entry.path)),
                read_curve(entry.path / "metrics.csv", row["objective"] or name),
            )
        )
    finished = {row["run"]: RunDirectory(by_name[row["run"]].path) for row in rows if math.isfinite(row["value"])}
    task = name.split("/")[1] if name.count("/") > 1 else ""
    return SweepPage(
        ", ".join(folder.resolve().name for folder in directories),
        _command(directories),
        name,
        mode,
        runs,
        repeats,
        means,
        compare_predictions(finished, task) if task else [],
        results,
    )


def check_page(path: Path) -> Path:
    """The path of a page, after a check that it replaces nothing but an earlier page.

    Raises:
        UserError: another file has this name.
    """
    if path.exists():
        start = b""
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(START_BYTES)
        if GENERATOR.encode() not in start:
            raise UserError(
                f"{path} exists and is not a page of compare, so it is not replaced: write another name, such as "
                "--csv table.csv"
            )
    return path


def _error(entry: Entry) -> str:
    lines = str(entry.status.get("error", "")).strip().splitlines() if entry.status["status"] == "failed" else []
    return lines[0] if lines else ""


def _target(run: RunDirectory) -> Path | None:
    """The report of a run, or its directory."""
    page = run.report / "index.html"
    return page if page.is_file() else run.path if run.path.is_dir() else None


def _command(directories: list[Path]) -> str:
    if len(directories) == 1 and (directories[0] / FILE).is_file():
        return shlex.join(["visiontune", "train", "-m", *Settings.read(directories[0]).overrides])
    return shlex.join(["visiontune", "compare", *map(str, directories)])
