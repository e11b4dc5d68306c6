"""predictions.csv: a row for each sample and task."""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from visiontune.errors import UserError
from visiontune.runs.files import write_atomically

COLUMNS = ("path", "split", "task", "truth", "prediction", "score", "loss")


@dataclass(frozen=True)
class Row:
    """One row of predictions.csv.

    Attributes:
        truth: the target as text; empty without one.
        score: score of the prediction; NaN is written as an empty cell.
        loss: loss of the sample; NaN is written as an empty cell.
    """

    path: str
    split: str
    task: str
    truth: str
    prediction: str
    score: float
    loss: float

    @classmethod
    def parse(cls, cells: Mapping[str, str]) -> "Row":
        """The row that was written as `cells`."""
        score, loss = (float(cells[name] or "nan") for name in ("score", "loss"))
        path, split, task, truth, prediction = (cells[name] for name in COLUMNS[:5])
        return cls(path, split, task, truth, prediction, score, loss)


def write_predictions(path: Path, rows: Iterable[Row]) -> None:
    """Write `path` atomically, with the header `COLUMNS`."""
    with write_atomically(path) as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            numbers = ("" if math.isnan(value) else f"{value:.6f}" for value in (row.score, row.loss))
            writer.writerow((row.path, row.split, row.task, row.truth, row.prediction, *numbers))


def read_predictions(path: Path) -> list[dict[str, str]]:
    """The rows of `path`; none if there is no such file.

    Raises:
        UserError: it is not a table with these columns.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if any(row.get(name) is None for row in rows for name in COLUMNS):
        raise UserError(f"{path}: expected the columns {', '.join(COLUMNS)}")
    return rows
