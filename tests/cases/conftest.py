"""The plan of a folder of images."""

from collections.abc import Callable
from pathlib import Path

import pytest
from running import SMALL, Command, Outcome


@pytest.fixture
def plan(command: Command, tmp_path: Path) -> Callable[..., Outcome]:
    """`plan("data=image_folder", "data.root=photos")`: the outcome of `visiontune plan` with a small network."""

    def run(*overrides: object) -> Outcome:
        return command("plan", *SMALL, "epochs=1", f"paths.logs={tmp_path / 'logs'}", *overrides)

    return run
