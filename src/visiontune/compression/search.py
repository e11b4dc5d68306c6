"""Which chain of steps makes the fastest model within limits: pure logic over measured candidates."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Chain = tuple[str, ...]  # the names of the steps; empty: the model that the search began with


@dataclass(frozen=True)
class Point:
    """A candidate as it was measured.

    Attributes:
        metric: the monitored one, on the validation split.
        drop: points of it that were lost, see `step.lost`.
        failed: why it has no numbers.
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
    """What a model may lose, in points, and how slow and large it may be."""

    max_drop: float
    max_latency_ms: float = float("inf")
    max_mb: float = float("inf")

    def within(self, original: Point) -> "Limits":
        """These, and no slower nor larger than the original."""
        return Limits(
            self.max_drop, min(self.max_latency_ms, original.latency_ms), min(self.max_mb, original.megabytes)
        )

    def missed(self, point: Point) -> dict[str, float]:
        """By how much each limit that does not hold is missed: of time and size the fraction, of the metric points."""
        over = {
            "max_drop": point.drop - self.max_drop,
            "max_latency_ms": point.latency_ms / self.max_latency_ms - 1,
            "max_mb": point.megabytes / self.max_mb - 1,
        }
        return {name: value for name, value in over.items() if value > 0}


def explore(
    levels: Sequence[Sequence[str]], measure: Callable[[Chain], Point], promising: Callable[[Point], bool]
) -> Iterator[Point]:
    """Every chain with at most one step of each level, in their order, a beginning before what continues it.

    What continues a chain is left out where that is not promising: steps take from a model, they give nothing back.
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
    """Those that no other is at least as good as in metric, time and size and better in one; the fastest first."""
    known = [point for point in points if not point.failed]
    best = [point for point in known if not any(_dominates(other, point) for other in known)]
    return sorted(best, key=lambda point: point.latency_ms)


def _dominates(a: Point, b: Point) -> bool:
    ours, theirs = ((one.drop, one.latency_ms, one.megabytes) for one in (a, b))
    return ours != theirs and all(x <= y for x, y in zip(ours, theirs, strict=True))


def fastest(points: Sequence[Point], limits: Limits) -> Point | None:
    """Of those within the limits; of equally fast ones the smallest."""
    met = [point for point in points if not point.failed and not limits.missed(point)]
    return min(met, key=lambda point: (point.latency_ms, point.megabytes, point.drop), default=None)


def nearest(points: Sequence[Point], limits: Limits) -> Point:
    """The one that misses them by the least in all."""
    return min((p for p in points if not p.failed), key=lambda point: sum(limits.missed(point).values()))
