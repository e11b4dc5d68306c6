"""The runs of a sweep as a pandas DataFrame."""

from pathlib import Path
from typing import Any

import pandas as pd

from visiontune.sweeps.comparison.table import find_entries, read_settings, run_names
from visiontune.sweeps.study.entries import find_front


def load_sweep(directory: str | Path) -> pd.DataFrame:
    """A row for each run, the best first; see `visiontune.load_sweep`."""
    entries = find_entries([Path(directory).expanduser()])
    settings = read_settings(entries)
    front = find_front(entries)
    rows: list[dict[str, Any]] = []
    for name, entry, values in zip(run_names(entries), entries, settings, strict=True):
        status = entry.status
        objective = status.get("objective") or {}
        rows.append(
            {"run": name, "path": str(entry.path)}
            | values
            | {"objective": objective.get("name"), "mode": objective.get("mode"), "value": objective.get("value")}
            | {"best_epoch": objective.get("epoch"), "trained_epochs": entry.epochs}
            | {"seconds": status.get("updated", 0.0) - status.get("started", 0.0)}
            | {"status": status["status"], "error": entry.error or status.get("error")}
            | ({"pareto": entry.path in front} if front else {})
            | entry.metrics
            | entry.values
        )
    frame = pd.DataFrame(rows).astype({"value": float})
    for key in settings[0]:
        frame[key] = _to_numbers(frame[key])
    return frame.sort_values("value", ascending=set(frame["mode"].dropna()) != {"max"}, ignore_index=True)


def _to_numbers(column: pd.Series) -> pd.Series:
    """Numbers if all values are numbers, else texts; an empty value is missing."""
    column = column.where(column != "")
    try:
        return pd.to_numeric(column)
    except ValueError:
        return column
