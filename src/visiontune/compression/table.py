"""The table of a compression: metrics, size, latency, memory and energy of each variant."""

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visiontune.analysis.tables import render
from visiontune.compression.bootstrap import Estimate
from visiontune.runs.files import write_atomically

BATCH = 32
TABLE_METRICS = 3  # table.csv has all of them


@dataclass(frozen=True)
class Row:
    """The measurements of one variant; NaN if a value could not be measured.

    Attributes:
        metrics: by `SPLIT/TASK/METRIC`, the monitored metric first.
        change: the change of the monitored metric relative to the first row.
        drops: points (hundredths) lost by each class that lost more than twice the mean.
        mean_drop: points lost by the classes, on average.
        faster: the first row's latency divided by this one's.
        note: why the variant was not measured.
    """

    name: str
    threads: int
    metrics: dict[str, Estimate] = field(default_factory=dict)
    change: Estimate | None = None
    drops: dict[str, float] = field(default_factory=dict)
    mean_drop: float = math.nan
    megabytes: float = math.nan
    parameters: int = 0
    macs: int = 0
    latency_ms: float = math.nan
    faster: float = math.nan
    throughput: float = math.nan
    peak_mb: float = math.nan
    joules: float = math.nan
    note: str = ""


def text(rows: list[Row]) -> str:
    """The table and its notes for the terminal."""
    columns, cells = _cells(rows)
    return "\n".join([render("", columns, cells), "", *_notes(rows)])


def write(rows: list[Row], folder: Path) -> None:
    """Write table.csv, with unrounded numbers, and table.md."""
    columns, cells = _cells(rows)
    with write_atomically(folder / "table.md") as file:
        lines = [columns, ["---"] * len(columns), *cells]
        file.write("\n".join(f"| {' | '.join(line)} |" for line in lines))
        file.write("\n\n" + "\n".join(f"- {note}" for note in _notes(rows)) + "\n")
    flat = [_flat(row) for row in rows]
    with write_atomically(folder / "table.csv") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for record in flat for name in record)))
        writer.writeheader()
        writer.writerows(flat)


def _cells(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    names = list(rows[0].metrics)[:TABLE_METRICS]
    columns = ["model", *names, "change", "MB", "parameters", "MACs", "ms, batch 1", "faster"]
    columns += [f"images/s, batch {BATCH}", "memory, MB", "mJ an image"]
    cells = [
        [
            row.name,
            *(_estimate(row.metrics.get(name)) for name in names),
            _estimate(row.change, "+.4f"),
            _number(row.megabytes, ".2f"),
            _number(row.parameters, ",d"),
            _number(row.macs, ",d"),
            _number(row.latency_ms, ".2f"),
            _number(row.faster, ".2f"),
            _number(row.throughput, ".1f"),
            _number(row.peak_mb, ".0f"),
            _number(1000 * row.joules, ".1f"),
        ]
        for row in rows
    ]
    return columns, cells


def _notes(rows: list[Row]) -> list[str]:
    """Notes below the table."""
    threads = rows[0].threads
    notes = [
        f"Times: medians, {threads} thread{'s' * (threads != 1)}, measured in turn; brackets: 95% bootstrap intervals."
    ]
    notes += [f"{row.name} is left out: {row.note}" for row in rows if row.note]
    for row in rows:
        if row.drops:
            classes = ", ".join(f"{name} ({points:.1f})" for name, points in row.drops.items())
            change, which = ("lost", "more than twice that") if row.mean_drop > 0 else ("gained", "these lost")
            mean = f"{abs(row.mean_drop):.1f} points in the mean"
            notes.append(f"{row.name}: classes {change} {mean}, and {which}: {classes}")
    return notes


def _estimate(estimate: Estimate | None, form: str = ".4f") -> str:
    if estimate is None or math.isnan(estimate.value):
        return "-"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _number(value: float, form: str) -> str:
    return "-" if not value or math.isnan(value) else f"{value:{form}}"


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {"model": row.name}
    for name, estimate in [*row.metrics.items(), *([("change", row.change)] if row.change else [])]:
        flat |= {name: estimate.value, f"{name} low": estimate.low, f"{name} high": estimate.high}
    numbers = ("megabytes", "parameters", "macs", "latency_ms", "faster", "throughput", "peak_mb", "joules", "threads")
    flat |= {name: getattr(row, name) for name in numbers}
    return flat | {"drops": "; ".join(f"{name} {value:.2f}" for name, value in row.drops.items()), "note": row.note}
