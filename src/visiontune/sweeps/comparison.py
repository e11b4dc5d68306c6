"""The table of a sweep, or of any runs."""

import csv
import math
import shlex
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from visiontune.analysis.tables import render, render_markdown
from visiontune.errors import UserError, first_line
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_atomically
from visiontune.runs.log import logging_to, warn_on_failure
from visiontune.runs.output import write_error
from visiontune.sweeps.entries import Entry, read_run
from visiontune.sweeps.out_of_fold import write_out_of_fold
from visiontune.sweeps.sweep import Sweep

Rows = list[dict[str, Any]]
TABLES = ("sweep.csv", "sweep_groups.csv", "sweep_out_of_fold.csv")
PATH_KEYS = ("run_dir", "sweep_dir", "name", "paths.logs")  # where a run is written


def compare(
    directories: list[Path], target: Path | None = None, markdown: Path | None = None, baseline: str | None = None
) -> None:
    """Print the table of the runs and that of their groups, and save them and the page that compares the runs.

    Runs that differ only in seed or fold are a group; without such runs there is only the first table.

    Args:
        target: the CSV file; by default sweep.csv in the first directory. The page (sweep.html), the table of the
            groups (sweep_groups.csv) and the predictions of held-out folds (sweep_out_of_fold.csv) are beside it.
        markdown: a file for the table as Markdown.
        baseline: the group that the others are compared with, see `summarize_groups`; by default the best.

    Raises:
        UserError: the directories hold no runs, the baseline is not a group, or a file cannot be written or would
            replace a file of a run.
    """
    # A worker writes tables with this module, and needs neither statistics nor a page.
    from visiontune.sweeps.groups import REPEATS, check_table, summarize_groups
    from visiontune.sweeps.overview import build_page, check_page
    from visiontune.sweeps.page import write_page

    entries = find_entries(directories)
    target = _check_target(target or directories[0] / "sweep.csv", entries)
    page = check_page(target.with_suffix(".html"))
    if markdown is not None:
        markdown = _check_target(markdown, entries, "--markdown", "table.md")
    groups_file = check_table(target.with_name(f"{target.stem}_groups.csv"), "verdict")
    folds_file = check_table(target.with_name(f"{target.stem}_out_of_fold.csv"), "loss")
    if len({target, page, markdown, groups_file, folds_file}) < 5:
        raise UserError(
            f"the table {target}, the page {page} and the Markdown {markdown} need different names: write "
            "--csv table.csv --markdown table.md"
        )
    rows = table(entries)
    by_name = dict(zip(run_names(entries), entries, strict=True))
    groups = summarize_groups(rows, by_name, baseline)
    _write_rows(rows, target)
    print(_text("", rows))
    if groups:
        _write_rows(groups, groups_file)
        print("\n" + _text(f"mean over {' and '.join(key for key in REPEATS if key in rows[0])}", groups))
    print()
    if write_out_of_fold(rows, by_name, folds_file):
        print(folds_file)
    if markdown is not None:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(markdown) as file:
            file.write(render_markdown(list(rows[0]), _cells(rows)))
        print(markdown)
    with logging_to(None), warn_on_failure(f"{page} is not current"):
        write_page(page, build_page(directories, entries, rows, groups, REPEATS))
        print(page)
    print(target)


def write_table(entries: list[Entry], target: Path) -> Rows:
    """Write the table of the runs as CSV, and return it."""
    rows = table(entries)
    _write_rows(rows, target)
    return rows


def _write_rows(rows: Rows, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(target) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _check_target(target: Path, entries: list[Entry], option: str = "--csv", name: str = "table.csv") -> Path:
    """The path of a file, after a check that it can be written and replaces no file of a run.

    Args:
        option: that names the file.
        name: an example of a file.

    Raises:
        UserError: it cannot be written, or is a file of a run.
    """
    target = target.expanduser()
    if target.exists() and not target.is_file():
        example = shlex.quote(str(target / name if target.is_dir() else name))
        raise UserError(f"{option} {target} is not a file: write a file, such as {option} {example}")
    if target.name not in TABLES and any(target.resolve().is_relative_to(entry.path) for entry in entries):
        raise UserError(f"{target} is in a run directory: write another file, such as {option} {name}")
    if reason := write_error(target.parent):
        raise UserError(f"cannot write to {target}: {reason}; write {option} FILE in a folder that you may write to")
    return target


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


def table(entries: list[Entry]) -> Rows:
    """A row per run, the best first: directory, varying keys, objective, test metric, epochs, seconds, status."""
    settings = _varying_keys(read_settings(entries))
    rows, modes = [], set()
    for name, entry, values in zip(run_names(entries), entries, settings, strict=True):
        status = entry.status
        objective = status.get("objective") or {"name": "", "mode": "max", "value": math.nan, "epoch": ""}
        _, _, metric = objective["name"].partition("/")
        test = {f"test/{metric}": entry.metrics[f"test/{metric}"]} if f"test/{metric}" in entry.metrics else {}
        rows.append(
            {"run": name, **values, "objective": objective["name"], "value": objective["value"], **test}
            | {"best epoch": objective["epoch"], "epochs": entry.epochs}
            | {"seconds": round(entry.seconds, 1)}
            | {name: status[name] for name in ("trained_parameters", "peak_memory_mb") if name in status}
            | {"status": status["status"]}
            | ({"error": entry.error} if entry.error else {})
        )
        modes.add(objective["mode"])
    sign = -1 if modes == {"max"} else 1
    rows.sort(key=lambda row: math.inf if math.isnan(row["value"]) else sign * row["value"])
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


def _text(title: str, rows: Rows) -> str:
    return render(title, list(rows[0]), _cells(rows))


def _cells(rows: Rows) -> list[list[object]]:
    return [[f"{value:.4f}" if isinstance(value, float) else value for value in row.values()] for row in rows]
