"""The objective of a run over its epochs."""

import csv
import math
from pathlib import Path

from visiontune.errors import UserError

Curve = list[tuple[int, float]]  # epoch and value


def read_curve(history: Path, metric: str) -> Curve:
    """The values of a metric in metrics.csv, which may be missing; values that are not finite are left out.

    Raises:
        UserError: the file is not a table of numbers.
    """
    if not metric or not history.is_file():
        return []
    try:
        with history.open(newline="") as file:
            points = [(int(row["epoch"]), float(row.get(metric) or math.nan)) for row in csv.DictReader(file)]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{history}: expected a table of numbers with the columns epoch and {metric}") from error
    return [point for point in points if math.isfinite(point[1])]


def find_best(curve: Curve, sign: int) -> tuple[int, float]:
    """The epoch and the value of the best point; the later one of equal values, as `best.ckpt`.

    Args:
        sign: 1 if higher is better, -1 if lower is.
    """
    return max(curve, key=lambda point: (sign * point[1], point[0]))
