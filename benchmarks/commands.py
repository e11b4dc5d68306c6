"""The cost of a `visiontune` command."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Cost(NamedTuple):
    """Seconds of wall and CPU time, and the peak of the resident memory in MB."""

    wall: float
    cpu: float
    memory: float


def run(tree: Path, arguments: Iterable[str], **environment: str) -> Cost:
    """The cost of `visiontune ARGUMENTS` with the sources of `tree`, a checkout.

    Args:
        environment: further environment variables.
    """
    command = [sys.executable, "-m", "visiontune", *arguments]
    variables = os.environ | {"PYTHONPATH": str(tree / "src")} | environment
    start = time.perf_counter()
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command[2:])} failed")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
