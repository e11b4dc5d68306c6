"""Find the chain of steps with the fastest model within limits, from measured candidates."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Chain = tuple[str, ...]  # names of steps; empty: the original model


@dataclass(frozen=True)
class Point:
    """The measurements of a candidate.

    Attributes:
        metric: the monitored metric on the validation split.
        drop: the drop of the metric in points, see `step.metric_drop`.
        failed: why the candidate could not be made; empty if it could.
    """

    chain: Chain
    metric: float = float("nan")
    drop: float = float("inf")
    latency_ms: float = float("inf")
    megabytes: float = float("inf")
    failed: str = ""

    @property
    def name(self) -> str:
        return "+".join(self.chain) or "original"


@dataclass(frozen=True)
class Limits:
    """The largest drop of the metric in points, the largest latency and the largest size."""

    max_drop: float
    max_latency_ms: float = float("inf")
    max_mb: float = float("inf")

    def within(self, original: Point) -> "Limits":
        """The stricter of these limits and the original's latency and size."""
        return Limits(
            self.max_drop, min(self.max_latency_ms, original.latency_ms), min(self.max_mb, original.megabytes)
        )

    def missed(self, point: Point) -> dict[str, float]:
        """The limits that `point` exceeds, and by how much: points of the metric, fractions of latency and size."""
        excess = {
            "max_drop": point.drop - self.max_drop,
            "max_latency_ms": point.latency_ms / self.max_latency_ms - 1,
            "max_mb": point.megabytes / self.max_mb - 1,
        }
        return {name: value for name, value in excess.items() if value > 0}


def explore(
    levels: Sequence[Sequence[str]], measure: Callable[[Chain], Point], promising: Callable[[Point], bool]
) -> Iterator[Point]:
    """Measure every chain with at most one step of each level, in order; a chain before its extensions.

    A chain that is not promising is not extended: no step improves the metric.
    """

    def visit(chain: Chain, level: int) -> Iterator[Point]:
        point = measure(chain)
        yield point
        if chain and (point.failed or not promising(point)):
            return
        for i in range(level, len(levels)):
            for step in levels[i]:
                yield from visit((*chain, step), i + 1)

    return visit((), 0)


def front(points: Sequence[Point]) -> list[Point]:
    """The Pareto front over metric, latency and size, the fastest first."""
    measured = [point for point in points if not point.failed]
    front_points = [point for point in measured if not any(_dominates(other, point) for other in measured)]
    return sorted(front_points, key=lambda point: point.latency_ms)


def _dominates(a: Point, b: Point) -> bool:
    """Whether `a` is better than `b` in one measurement and worse in none."""
    first, second = ((point.drop, point.latency_ms, point.megabytes) for point in (a, b))
    return first != second and all(x <= y for x, y in zip(first, second, strict=True))


def fastest(points: Sequence[Point], limits: Limits) -> Point | None:
    """The fastest point within the limits; the smallest of equally fast ones."""
    within = [point for point in points if not point.failed and not limits.missed(point)]
    return min(within, key=lambda point: (point.latency_ms, point.megabytes, point.drop), default=None)


def nearest(points: Sequence[Point], limits: Limits) -> Point:
    """The point that exceeds the limits by the smallest sum."""
    return min((point for point in points if not point.failed), key=lambda point: sum(limits.missed(point).values()))
