"""The command in a new process."""

import subprocess
import sys
from collections.abc import Callable

import pytest

SHELL = [sys.executable, "-m", "visiontune"]


@pytest.fixture(scope="session")
def shell(isolated_session: None) -> Callable[..., subprocess.Popen[str]]:
    """`shell("train", "seed=1")`: start the command, and do not wait for it."""

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [*SHELL, *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start
