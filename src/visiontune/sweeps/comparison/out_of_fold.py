"""The predictions of a cross-validation: each sample by the runs that have not trained on it."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_atomically
from visiontune.runs.predictions import COLUMNS, read_predictions
from visiontune.sweeps.study.entries import Entry

FOLD = "data.fold"


def write_out_of_fold(rows: list[dict[str, Any]], entries: Mapping[str, Entry], target: Path) -> bool:
    """Join the predictions of the held-out folds of all finished runs; return whether there are any.

    Args:
        rows: of the table of the runs, whose varying keys become columns before those of predictions.csv.
        entries: by the name of the run.
        target: the CSV file.
    """
    columns = list(rows[0])
    keys = columns[: columns.index("objective")]
    if FOLD not in keys:
        return False
    joined: list[list[str]] = []
    for row in sorted(rows, key=lambda row: str(row["run"])):
        run = RunDirectory(entries[row["run"]].path)
        if row["status"] == "finished" and row[FOLD] != "":
            values = [str(row[key]) for key in keys]
            held_out = (line for line in read_predictions(run.predictions) if line["split"] == "test")
            joined += [[*values, *(line[name] for name in COLUMNS)] for line in held_out]
    if not joined:
        return False
    with write_atomically(target) as file:
        writer = csv.writer(file)
        writer.writerow([*keys, *COLUMNS])
        writer.writerows(joined)
    return True
