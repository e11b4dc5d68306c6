"""The search over candidates, without runs."""

import csv
import math
from pathlib import Path

import pytest

from visiontune.compression.pareto import write_pareto_front
from visiontune.compression.search import Chain, Limits, Point, explore, fastest, front, nearest

LEVELS = [["tiny", "narrow"], ["half", "quarter"], ["int8"]]
SPEED = {"tiny": 4.0, "narrow": 8.0, "half": 1.5, "quarter": 2.0, "int8": 3.0}
COST = {"tiny": 0.2, "narrow": 3.0, "half": 0.1, "quarter": 0.6, "int8": 0.1}


def measure(chain: Chain) -> Point:
    drop, latency, megabytes = sum(COST[step] for step in chain), 24.0, 40.0
    for step in chain:
        latency, megabytes = latency / SPEED[step], megabytes / SPEED[step]
    return Point(chain, 0.95 - drop / 100, drop, latency, megabytes)


def test_every_chain_once_after_its_prefix() -> None:
    chains = [point.chain for point in explore(LEVELS, measure, lambda _: True)]
    assert len(chains) == len(set(chains)) == 3 * 3 * 2
    assert chains[0] == () and ("tiny", "quarter", "int8") in chains and ("int8",) in chains
    assert all(chain[:-1] in chains[:i] for i, chain in enumerate(chains) if chain)


def test_candidates_that_dropped_too_much_get_no_further_steps() -> None:
    """Failed candidates get none either; the original always does."""
    chains = [point.chain for point in explore(LEVELS, measure, lambda point: 0 < point.drop <= 0.5)]
    assert ("narrow",) in chains and not any(len(chain) > 1 and chain[0] == "narrow" for chain in chains)
    assert ("quarter",) in chains and ("quarter", "int8") not in chains and ("tiny", "half", "int8") in chains

    def fail_at_half(chain: Chain) -> Point:
        return Point(chain, failed="it has windows") if chain[-1:] == ("half",) else measure(chain)

    chains = [point.chain for point in explore(LEVELS, fail_at_half, lambda _: True)]
    assert ("half",) in chains and ("half", "int8") not in chains and ("quarter", "int8") in chains


def test_the_fastest_within_the_limits() -> None:
    points = list(explore(LEVELS, measure, lambda _: True))
    chosen = fastest(points, Limits(0.5).within(points[0]))
    assert chosen is not None and chosen.chain == ("tiny", "half", "int8")
    assert chosen.latency_ms == pytest.approx(24 / 18)
    assert fastest(points, Limits(0.15).within(points[0])).chain == ("int8",)  # type: ignore[union-attr]
    assert fastest(points, Limits(5.0, max_mb=0.9)).chain == ("narrow", "quarter", "int8")  # type: ignore[union-attr]
    # The smallest of equally fast candidates.
    twins = [Point(("a",), 0.9, 0, 1.0, 2.0), Point(("b",), 0.9, 0, 1.0, 1.0)]
    assert fastest(twins, Limits(0.5)) == twins[1]


def test_nothing_slower_or_larger_than_the_original() -> None:
    original = Point((), 0.9, 0.0, 10.0, 10.0)
    worse = [Point(("large",), 0.99, -9.0, 5.0, 10.5), Point(("slow",), 0.99, -9.0, 10.5, 5.0)]
    loose = Limits(0.5, max_latency_ms=100, max_mb=100)
    assert fastest([original, *worse], loose.within(original)) == original
    assert fastest(worse, loose.within(original)) is None


def test_limits_that_no_candidate_keeps() -> None:
    points = list(explore(LEVELS, measure, lambda _: True))
    limits = Limits(0.35, max_latency_ms=1.2)
    assert fastest(points, limits) is None
    close = nearest(points, limits)
    assert close.chain == ("tiny", "half", "int8")
    excess = limits.missed(close)
    assert excess == {"max_drop": pytest.approx(0.05), "max_latency_ms": pytest.approx(24 / 18 / 1.2 - 1)}


def test_pareto_front_as_table_and_figure(tmp_path: Path) -> None:
    points = [
        Point((), 0.95, 0.0, 24.0, 40.0),
        Point(("a",), 0.94, 1.0, 12.0, 20.0),
        Point(("worse",), 0.93, 2.0, 12.0, 20.0),
        Point(("small",), 0.90, 5.0, 30.0, 1.0),
        Point(("swin",), failed="it has windows"),
    ]
    assert [point.name for point in front(points)] == ["a", "original", "small"]
    write_pareto_front(points, Limits(0.5, 15.0), "val/classification/accuracy", tmp_path)
    rows = {row["candidate"]: row for row in csv.DictReader((tmp_path / "front.csv").open())}
    assert {name for name, row in rows.items() if row["front"]} == {"a", "original", "small"}
    assert rows["a"]["latency_ms"] == "12.0" and rows["swin"]["failed"] == "it has windows"
    assert rows["swin"]["metric"] == "" and math.isclose(float(rows["worse"]["drop"]), 2)
    assert (tmp_path / "front.png").read_bytes()[:4] == b"\x89PNG"
