"""Write the candidates of a search: a table of all, and a figure of the Pareto front."""

import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from visiontune.compression.search import Limits, Point, front
from visiontune.models.heads.drawing import save_figure
from visiontune.runs.files import write_atomically

COLUMNS = ("candidate", "metric", "drop", "latency_ms", "megabytes", "front", "failed")


def write_pareto_front(points: Sequence[Point], limits: Limits, metric: str, folder: Path) -> None:
    """Write front.csv, which marks the candidates on the Pareto front, and front.png, whose circles show the sizes.

    Args:
        metric: the name of the monitored metric.
    """
    best = front(points)
    with write_atomically(folder / "front.csv") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for point in sorted(points, key=lambda point: point.latency_ms):
            numbers = [""] * 4 if point.failed else [point.metric, point.drop, point.latency_ms, point.megabytes]
            writer.writerow([point.name, *numbers, "front" if point in best else "", point.failed])
    save_figure(_figure(points, best, limits, metric), folder / "front.png")


def _figure(points: Sequence[Point], best: Sequence[Point], limits: Limits, metric: str) -> Figure:
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    measured = [point for point in points if not point.failed]
    largest = max(point.megabytes for point in measured)
    for point in measured:
        size, colour = 20 + 400 * point.megabytes / largest, "tab:blue" if point in best else "lightgrey"
        axes.scatter(point.latency_ms, point.metric, size, colour, alpha=0.6)
    for i, point in enumerate(sorted(best, key=lambda point: (point.metric, point.latency_ms))):
        label, below = f"{point.name}, {point.megabytes:.2g} MB", i % 2  # below and above in turn, or they overlap
        position = (point.latency_ms, point.metric)
        axes.annotate(label, position, (4, -12 if below else 5), textcoords="offset points", fontsize=8)
    axes.set(xlabel="ms per image", ylabel=metric, xscale="log")
    allowed = [point.metric for point in measured if point.drop <= limits.max_drop]
    if allowed:
        worst = max(allowed, key=lambda value: abs(value - measured[0].metric))
        label = f"largest allowed drop, max_drop={limits.max_drop:g}"
        axes.axhline(worst, color="grey", linestyle=":", linewidth=1, label=label)
        axes.legend(loc="best", fontsize=8)
    if limits.max_latency_ms < float("inf"):
        axes.axvline(limits.max_latency_ms, color="grey", linestyle=":", linewidth=1)
    return figure
