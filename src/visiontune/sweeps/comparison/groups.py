"""The table of groups: runs that differ only in seed or fold are one group."""

import math
import shlex
from collections import defaultdict
from collections.abc import Hashable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from omegaconf import OmegaConf

from visiontune.data.recorded import read_rows
from visiontune.errors import UserError
from visiontune.sweeps.comparison.statistics import GroupSummary, compare_groups
from visiontune.sweeps.study.entries import Entry

Row = dict[str, Any]
MAX_HEADER = 100_000  # bytes of the first line
REPEATS = ("seed", "data.fold")  # runs that differ only in these keys repeat an experiment


def summarize_groups(rows: list[Row], entries: Mapping[str, Entry], baseline: str | None = None) -> list[Row]:
    """A row for each group: its mean, its difference from the best group or from a baseline, and a verdict.

    Folds are compared by their test metric, which is that of the held-out fold; other runs by their objective. Runs
    that have not finished, such as failed and pruned ones, do not count, and neither do soups. Groups with another
    objective are compared among themselves.

    Args:
        rows: the table of the runs.
        entries: the runs by their name in the table.
        baseline: the name of a run of the group, or values that only this group has, such as `strategy=full`.

    Returns:
        Nothing if no two runs repeat an experiment.

    Raises:
        UserError: the baseline is not a group, or no runs repeat an experiment.
    """
    varying = list(rows[0])[1 : list(rows[0]).index("objective")]
    keys = [key for key in varying if key not in REPEATS]
    repeats = [key for key in varying if key in (*REPEATS, "data.folds")]  # fold 0 of 5 is not fold 0 of 10
    scored = [row for row in rows if row["status"] == "finished" and math.isfinite(row["value"])]
    scored = [row for row in scored if not entries[row["run"]].is_soup]
    reference = None if baseline is None else _find_baseline(baseline, rows, keys)
    result = []
    for objective in dict.fromkeys(row["objective"] for row in scored):
        members = [row for row in scored if row["objective"] == objective]
        test = f"test/{objective.partition('/')[2]}"
        has_test = all(isinstance(row.get(test), float) for row in members)
        is_held_out = has_test and "data.fold" in repeats
        scores = _collect(members, keys, repeats, test if is_held_out else "value")
        if all(len(group) < 2 for group in scores.values()):
            continue
        mode = entries[members[0]["run"]].status["objective"]["mode"]
        overlap = measure_overlap(members, entries, repeats)
        summaries = compare_groups(scores, mode, overlap, reference if reference in scores else None)
        tests = _collect(members, keys, repeats, test) if has_test and not is_held_out else {}
        for summary in summaries:
            row = _write_row(summary, keys, test if is_held_out else objective)
            result.append(row | ({test: fmean(tests[summary.name].values())} if tests else {}))
    if baseline is not None and not result:
        raise UserError(f"--baseline {baseline}: no two runs differ only in {' or '.join(REPEATS)}; sweep seed=0,1,2")
    if baseline is not None and all(row["verdict"] != "baseline" for row in result):
        raise UserError(f"--baseline {baseline}: expected a group with finished runs of several seeds or folds")
    columns = dict.fromkeys(name for row in result for name in row)
    return [{name: row.get(name, "") for name in columns} for row in result]


def check_table(path: Path, column: str) -> Path:
    """The path of a table, after a check that it replaces nothing but an earlier one.

    Args:
        column: the last one of the table.

    Raises:
        UserError: another file has this name.
    """
    header = b""
    if path.is_file():
        with path.open("rb") as file:
            header = file.readline(MAX_HEADER)
    if path.exists() and f",{column}".encode() not in header:
        raise UserError(
            f"{path} exists and has no column {column}, so it is not a table of compare and is not replaced: write "
            "another name, such as --csv table.csv"
        )
    return path


def _group(row: Row, keys: list[str]) -> tuple[str, ...]:
    return tuple(row[key] for key in keys)


def _collect(
    rows: list[Row], keys: list[str], repeats: list[str], column: str
) -> dict[Hashable, dict[Hashable, float]]:
    """group -> repeat -> score, the mean of runs that are equal even in seed and fold."""
    scores: dict[Hashable, dict[Hashable, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        scores[_group(row, keys)][_group(row, repeats)].append(row[column])
    return {group: {repeat: fmean(values[repeat]) for repeat in values} for group, values in scores.items()}


def _write_row(summary: GroupSummary, keys: list[str], metric: str) -> Row:
    values: Row = dict(zip(keys, summary.name, strict=True))  # type: ignore[call-overload]
    numbers = {
        "mean": summary.mean.value,
        "low": summary.mean.low,
        "high": summary.mean.high,
        "difference": summary.difference.value,
        "difference low": summary.difference.low,
        "difference high": summary.difference.high,
        "p": summary.p,
    }
    numbers = {name: "" if math.isnan(value) else value for name, value in numbers.items()}  # type: ignore[misc]
    return values | {"metric": metric, "repeats": summary.n} | numbers | {"verdict": summary.verdict}


def _find_baseline(text: str, rows: list[Row], keys: list[str]) -> tuple[str, ...]:
    """The group of a run, or the only group with some values.

    Raises:
        UserError: there is none, or several.
    """
    matches = {_group(row, keys) for row in rows if row["run"] == text}
    try:
        pairs = [item.partition("=")[::2] for item in shlex.split(text)]
    except ValueError:
        pairs = []
    if not matches and pairs and all(key in keys for key, _ in pairs):
        matches = {_group(row, keys) for row in rows if all(row[key] == value for key, value in pairs)}
    if len(matches) != 1:
        example = " ".join(f"{key}={rows[0][key]}" for key in keys) or rows[0]["run"]
        problem = "several groups have these values" if matches else "there is no such run or group"
        raise UserError(
            f"--baseline {text}: {problem}; write a run or values, such as --baseline {shlex.quote(example)}"
        )
    return matches.pop()


def measure_overlap(
    rows: list[Row], entries: Mapping[str, Entry], repeats: list[str], split: Literal["val", "test"] = "val"
) -> float:
    """Evaluated images divided by training images if the repeats evaluate other images, else 0.

    For folds it is 1 / (folds - 1), with the smallest number of folds. For seeds it compares splits.csv of two runs
    with different seeds.

    Args:
        split: that is evaluated.

    Raises:
        UserError: a file of a run cannot be read.
    """
    if "data.fold" in repeats:
        one_of_each = {row.get("data.folds"): row["run"] for row in rows}  # the key may vary
        numbers = [OmegaConf.select(entries[run].read_config(), "data.folds") for run in one_of_each.values()]
        present = len({row["data.fold"] for row in rows})
        return 1 / max(1, min(number if isinstance(number, int) else present for number in numbers) - 1)
    other = next((row for row in rows if _group(row, repeats) != _group(rows[0], repeats)), rows[0])
    images, train = [], 0
    for row in (rows[0], other):
        path = entries[row["run"]].path / "splits.csv"
        content = read_rows(path) if path.is_file() else []
        images.append({line["path"] for line in content if line["split"] == split})
        train = train or sum(line["split"] == "train" for line in content)
    return 0.0 if images[0] == images[1] else len(images[0]) / max(train, 1)
