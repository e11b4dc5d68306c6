"""The cores that this process may use: for data-loader workers, and for threads that read files."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(system: Path = Path("/")) -> int:
    """The number of cores that this process may use: its CPU affinity, limited by the quota of its control groups.

    Args:
        system: the folder with `proc` and `sys`.
    """
    count = getattr(os, "process_cpu_count", None) or _count_affinity  # the former since Python 3.13
    return max(1, min([count() or 1, *(math.ceil(quota) for quota in _quotas(system))]))


def _count_affinity() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _quotas(system: Path) -> Iterator[float]:
    """The CPU quotas, in cores, of this process's control groups and of the groups around them (versions 1 and 2)."""
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    mount = system / "sys/fs/cgroup"
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = mount / "cpu" if controllers else mount
        group = base / name.strip("/")
        # In a container, the mount is the group itself, and `name` may be its path outside.
        for folder in {group, *group.parents, base} - set(base.parents):
            yield from _quota(folder)


def _quota(group: Path) -> Iterator[float]:
    try:
        if (group / "cpu.max").is_file():
            limit, period = (group / "cpu.max").read_text().split()
        else:
            limit, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except (OSError, ValueError):  # the group has no quota file
        return
    if limit not in ("max", "-1"):
        yield int(limit) / int(period)
