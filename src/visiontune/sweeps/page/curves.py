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


def thin(curve: Curve, most: int) -> Curve:
    """At most `most` points, evenly spread; the first, the last, the smallest and the largest value remain."""
    if len(curve) <= most:
        return curve
    positions = range(len(curve))
    extremes = {min(positions, key=lambda i: curve[i][1]), max(positions, key=lambda i: curve[i][1])}
    count = most - len(extremes)
    even = {round(i * (len(curve) - 1) / (count - 1)) for i in range(count)}
    return [curve[i] for i in sorted(even | extremes)]
