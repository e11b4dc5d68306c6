"""Time calls relative to each other, and measure their energy."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

POWERCAP = Path("/sys/class/powercap")  # Linux, Intel and AMD; often only root can read it


@dataclass(frozen=True)
class Timing:
    """The time of a call.

    Attributes:
        seconds: per call, the median over the rounds.
        faster: the first call's time divided by this one's, the median of the ratios of each round.
    """

    seconds: float
    faster: float


def time_alternately(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    turn: float = 0.1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time calls in turn, so that other load on the machine affects all of them equally.

    In each round a call is repeated for `turn` seconds, since after another call the caches hold that call's weights.
    Two warm-up calls, and one that sets the number of repeats, do not count.
    """
    repeats = {name: max(1, round(turn / _turn(call, 1, clock, warm_up=2))) for name, call in calls.items()}
    times = [{name: _turn(call, repeats[name], clock) for name, call in calls.items()} for _ in range(rounds)]
    first = next(iter(calls))
    return {
        name: Timing(median(each[name] for each in times), median(each[first] / each[name] for each in times))
        for name in calls
    }


def _turn(call: Callable[[], object], repeats: int, clock: Callable[[], float], warm_up: int = 0) -> float:
    """Mean seconds per call."""
    for _ in range(warm_up):
        call()
    start = clock()
    for _ in range(repeats):
        call()
    return max(clock() - start, 1e-9) / repeats


def energy(
    call: Callable[[], object],
    seconds: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
    powercap: Path = POWERCAP,
) -> float:
    """Joules per call, other load of the CPUs included; NaN if the machine does not report energy."""
    zones = [zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1]  # packages, not their parts
    before, start, count = [_microjoules(zone) for zone in zones], clock(), 0
    if not zones or any(math.isnan(value) for value in before):
        return math.nan
    while clock() - start < seconds:
        call()
        count += 1
    used = 0.0
    for zone, value in zip(zones, before, strict=True):
        max_range = int((zone / "max_energy_range_uj").read_text())
        used += (_microjoules(zone) - value) % max_range  # the counter wraps around
    return used / 1e6 / count


def _microjoules(zone: Path) -> float:
    try:
        return float((zone / "energy_uj").read_text())
    except OSError:
        return math.nan
