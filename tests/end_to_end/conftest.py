"""The command in a process of its own."""

import subprocess
import sys
from collections.abc import Callable

import pytest

SHELL = [sys.executable, "-c", "from visiontune.cli import main; main()"]


@pytest.fixture(scope="session")
def shell(apart: None) -> Callable[..., subprocess.Popen[str]]:
    """`shell("train", "seed=1")`: started, not waited for."""

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [*SHELL, *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start
