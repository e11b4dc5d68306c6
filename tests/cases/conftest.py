"""The plan of a folder of images."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from running import SMALL, Command, Outcome

from visiontune.runs import RunDirectory


@pytest.fixture
def plan(command: Command, tmp_path: Path) -> Callable[..., Outcome]:
    """`plan("data=image_folder", "data.root=photos")`: the outcome of `visiontune plan` with a small network."""

    def run(*overrides: object) -> Outcome:
        return command("plan", *SMALL, "epochs=1", f"paths.logs={tmp_path / 'logs'}", *overrides)

    return run


@pytest.fixture
def copy(run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A whole run that the test may change."""
    shutil.copytree(run.path, tmp_path / "copy")
    return RunDirectory.open(tmp_path / "copy")
