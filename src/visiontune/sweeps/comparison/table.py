"""The table of a sweep, or of any runs."""

import csv
import math
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from visiontune.errors import UserError, first_line
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_atomically
from visiontune.sweeps.study.entries import Entry, find_front, read_run
from visiontune.sweeps.study.sweep import Sweep

Rows = list[dict[str, Any]]
PATH_KEYS = ("run_dir", "sweep_dir", "name", "paths.logs")  # where a run is written


def find_entries(directories: list[Path]) -> list[Entry]:
    """The runs among `directories`, the jobs of sweeps among them, and the runs directly inside other folders.

    Raises:
        UserError: there are none.
    """
    entries: dict[Path, Entry] = {}
    for folder in directories:
        if (folder / "sweep.yaml").is_file():
            entries |= {entry.path: entry for entry in Sweep(folder).entries()}
        else:
            paths = [path.resolve() for path in (folder, *sorted(folder.glob("*"))) if (path / "config.yaml").is_file()]
            entries |= {path: read_run(RunDirectory.open(path)) for path in paths}
    if not entries:
        raise UserError(
            f"{', '.join(map(str, directories))}: expected a run directory or a sweep directory, such as "
            "logs/sweeps/2026-11-22_09-15-02"
        )
    return list(entries.values())


def write_table(entries: list[Entry], target: Path) -> Rows:
    """Write the table of the runs as CSV, and return it."""
    rows = table(entries)
    write_rows(rows, target)
    return rows


def write_rows(rows: Rows, target: Path) -> None:
    """Write rows as CSV."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(target) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def table(entries: list[Entry]) -> Rows:
    """A row per run, the best first: directory, varying keys, objective, test metric, epochs, seconds, status.

    Runs of a sweep with several objectives have a column for each, and those on the Pareto front come first.
    """
    settings = _varying_keys(read_settings(entries))
    front = find_front(entries)
    rows, modes = [], set()
    for name, entry, values in zip(run_names(entries), entries, settings, strict=True):
        status = entry.status
        objective = status.get("objective") or {"name": "", "mode": "max", "value": math.nan, "epoch": ""}
        _, _, metric = objective["name"].partition("/")
        test = {f"test/{metric}": entry.metrics[f"test/{metric}"]} if f"test/{metric}" in entry.metrics else {}
        pareto = {"pareto": "yes" if entry.path in front else ""} if front else {}
        others = {name: value for name, value in entry.values.items() if name != objective["name"]}
        rows.append(
            {"run": name, **values, "objective": objective["name"], "value": objective["value"], **pareto, **others}
            | test
            | {"best epoch": objective["epoch"], "epochs": entry.epochs}
            | {"seconds": round(entry.seconds, 1)}
            | {name: status[name] for name in ("trained_parameters", "peak_memory_mb") if name in status}
            | {"status": status["status"]}
            | ({"error": entry.error} if entry.error else {})
        )
        modes.add(objective["mode"])
    sign = -1 if modes == {"max"} else 1
    rows.sort(key=lambda row: math.inf if math.isnan(row["value"]) else sign * row["value"])
    rows.sort(key=lambda row: row.get("pareto") != "yes")
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "") for name in columns} for row in rows]


def run_names(entries: list[Entry]) -> list[str]:
    """The names of the directories; paths if two runs, such as 000 of two sweeps, have the same name."""
    names = [entry.path.name for entry in entries]
    return names if len(set(names)) == len(names) else [str(entry.path) for entry in entries]


def read_settings(entries: list[Entry]) -> list[dict[str, str]]:
    """For each run, all keys that any run overrides; a run without the override has its config's value.

    Raises:
        UserError: an override of a run cannot be read.
    """
    try:
        return _read_settings(entries)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(
            f"environment.json of a run has an override that cannot be read: {first_line(error)}"
        ) from error


def _read_settings(entries: list[Entry]) -> list[dict[str, str]]:
    overrides = [dict(map(_split, filter(lambda text: "=" in text, entry.overrides))) for entry in entries]
    keys = [key for key in dict.fromkeys(key for values in overrides for key in values) if key not in PATH_KEYS]
    rows = []
    for entry, values in zip(entries, overrides, strict=True):
        missing = [key for key in keys if key not in values]
        cfg = entry.read_config() if missing else DictConfig({})  # reading takes time
        row = {}
        for key in keys:
            value = OmegaConf.select(cfg, key) if key in missing else values[key]
            row[key] = "" if OmegaConf.is_config(value) or value is None else str(value)
        rows.append(row)
    return rows


def _varying_keys(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    varying = [key for key in rows[0] if len({row[key] for row in rows}) > 1]
    return [{key: row[key] for key in varying} for row in rows]


def _split(override: str) -> tuple[str, str]:
    """The key and the value of an override, without the quotes of Hydra's grammar."""
    key, _, value = override.lstrip("+").partition("=")
    if value.startswith(("'", '"')):
        value = str(OverridesParser.create().parse_override(override).value())
    return key, value
