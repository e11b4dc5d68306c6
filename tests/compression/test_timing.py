"""Relative times and energy, with a simulated clock and simulated counters."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from visiontune.compression.timing import energy, time_alternately


class Machine:
    """A simulated clock: calls advance it, by `slowdown` times their seconds."""

    def __init__(self) -> None:
        self.now, self.slowdown, self.calls = 0.0, 1.0, list[str]()

    def clock(self) -> float:
        return self.now

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            self.calls.append(name)
            self.now += seconds * self.slowdown

        return work


def test_medians_and_ratios() -> None:
    machine = Machine()
    calls = {"original": machine.call("original", 0.02), "small": machine.call("small", 0.005)}
    timings = time_alternately(calls, rounds=3, clock=machine.clock)
    assert timings["original"].seconds == pytest.approx(0.02) and timings["original"].faster == pytest.approx(1)
    assert timings["small"].seconds == pytest.approx(0.005) and timings["small"].faster == pytest.approx(4)
    # Three calls for warm-up and to choose the count, then turns of a tenth of a second each.
    turn = ["original"] * 5 + ["small"] * 20
    assert machine.calls == ["original"] * 3 + ["small"] * 3 + turn * 3


def test_the_ratio_is_independent_of_the_speed_of_the_machine() -> None:
    machine = Machine()
    original, small = machine.call("original", 0.2), machine.call("small", 0.05)

    def slow_down() -> None:
        machine.slowdown *= 2
        original()

    timings = time_alternately({"original": slow_down, "small": small}, rounds=5, turn=0, clock=machine.clock)
    assert timings["small"].faster == pytest.approx(4)
    assert timings["small"].seconds == pytest.approx(0.05 * 2**6)  # the third of five rounds


def test_energy_of_a_call(tmp_path: Path) -> None:
    """Two packages; the counter of one overflows. Zones within a package are not counted twice."""
    before = {"intel-rapl:0": 999_000_000, "intel-rapl:1": 5_000_000, "intel-rapl:0:0": 7_000_000}
    for zone, value in before.items():
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{value}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("1000000000\n")
    machine = Machine()
    work = machine.call("", 0.1)

    def call() -> None:
        work()
        for zone in before:
            place = tmp_path / zone / "energy_uj"
            place.write_text(str((int(place.read_text()) + 300_000) % 1_000_000_000))

    assert energy(call, seconds=0.95, clock=machine.clock, powercap=tmp_path) == pytest.approx(2 * 0.3)
    assert len(machine.calls) == 10


def test_energy_is_nan_without_counters(tmp_path: Path) -> None:
    calls = list[int]()
    assert math.isnan(energy(lambda: calls.append(1), powercap=tmp_path)) and not calls
