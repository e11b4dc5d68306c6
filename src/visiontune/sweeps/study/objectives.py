"""The objectives of a sweep: metrics of a run, and what it costs."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence

from visiontune.errors import UserError
from visiontune.runs.directory import RunDirectory

COSTS = ("training_seconds", "peak_memory_mb", "trained_parameters", "parameters")  # smaller is better


def find_objectives(names: Sequence[str], metrics: Mapping[str, str]) -> dict[str, str]:
    """Name -> `max` or `min`, of the objectives with these names.

    Args:
        metrics: name -> direction of the metrics that a run has.

    Raises:
        UserError: a run has no such metric or cost, or a name is there twice.
    """
    directions = {**metrics, **dict.fromkeys(COSTS, "min")}
    for name in names:
        if name not in directions:
            raise UserError(f"sweep.objectives: runs have no {name}; write some of {', '.join(directions)}")
        if list(names).count(name) > 1:
            raise UserError(f"sweep.objectives: {name} is there twice; write it once")
    return {name: directions[name] for name in names}


def check_same_objectives(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Check that a sweep is resumed with its objectives.

    Raises:
        UserError: it has others.
    """
    if before != now:
        texts = [f"sweep.objectives=[{','.join(names)}]" for names in (now, before)]
        raise UserError("{}: the sweep in this directory has {}; write another sweep_dir=DIR".format(*texts))


def read_values(run: RunDirectory, names: Iterable[str]) -> dict[str, float]:
    """The values of the objectives of a run; NaN for one that it does not have.

    `training_seconds` counts all processes that have trained the run, validation included.

    Raises:
        UserError: a file of the run cannot be read.
    """
    values = {**run.read_status(), **run.read_metrics(), "training_seconds": _read_seconds(run)}
    return {name: values.get(name, math.nan) for name in names}


def _read_seconds(run: RunDirectory) -> float:
    if not run.history.is_file():
        return math.nan
    try:
        with run.history.open(newline="") as file:
            return max((float(row["seconds"]) for row in csv.DictReader(file)), default=math.nan)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{run.history}: expected a table with a number in the column seconds") from error


def pareto_front(points: Sequence[Sequence[float]], modes: Sequence[str]) -> list[int]:
    """The positions of the points that no other point surpasses: as good in each objective, and better in one.

    Points with a value that is not finite are left out.
    """
    costs = [[-value if mode == "max" else value for value, mode in zip(point, modes, strict=True)] for point in points]
    front: list[int] = []
    finite = (position for position, cost in enumerate(costs) if all(map(math.isfinite, cost)))
    for position in sorted(finite, key=lambda position: costs[position]):  # a later one surpasses none before
        if not any(costs[other] != costs[position] and _is_no_worse(costs[other], costs[position]) for other in front):
            front.append(position)
    return sorted(front)


def _is_no_worse(costs: Sequence[float], others: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(costs, others, strict=True))
