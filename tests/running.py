"""Run the command line in this process, and overrides that keep a run short."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import pytest

from visiontune import cli
from visiontune.runs import RunDirectory

# A network of a few thousand parameters on images of 16 pixels.
SMALL = [
    "trainer=cpu",
    "backbone=small_cnn",
    "backbone.widths=[4,8]",
    "backbone.depth=1",
    "data.image_size=16",
    "data.num_workers=0",
]
# Real digits from memory; one second per run.
TINY = [*SMALL, "trainer.max_epochs=1", "data.limit_train=64", "logger=none"]
# 54 digits to validate with and 54 to test with, instead of 270: almost half the time of a run of several epochs.
FEW = "data.split_ratio={train: 0.94, val: 0.03, test: 0.03}"
# Generated scenes with a target for every head.
SCENES = ["data=digit_scenes", "data.scenes=40", "data.batch_size=8", "data.image_size=64"]
# Head -> settings of a small one. The default threshold would remove all boxes of an untrained detector.
NARROW = {
    "detection": ["score_threshold=0.01", "channels=64"],
    "instances": ["score_threshold=0.01", "channels=32", "hidden=32", "proposals=50", "samples=16"],
}


def can_mount() -> bool:
    """Whether this process may mount a small disk; that needs root with CAP_SYS_ADMIN, which containers often lack."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


def mostly_slow(values: Iterable[Any], *quick: object) -> list[Any]:
    """Parameters of a test; only `quick` run in `make test`."""

    def slow(value: Any) -> Any:
        return pytest.param(*(value if isinstance(value, tuple) else [value]), marks=pytest.mark.slow)

    return [value if value in quick else slow(value) for value in values]


TECHNIQUES = ("ema", "swa", "sam", "l2_sp", "wise_ft", "auto_rgn")


def strategy_overrides(name: str) -> list[str]:
    """Overrides for a strategy and techniques: `lp_ft+sam`, `full` or `swa` (with strategy=full)."""
    parts = name.split("+")
    techniques = [part for part in parts if part in TECHNIQUES]
    average = [] if {"ema", "swa"} & set(techniques) else ["ema"]
    (strategy,) = [part for part in parts if part not in techniques] or ["full"]
    return [f"strategy={strategy}", f"technique=[{','.join(average + techniques)}]"]


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def run(self) -> RunDirectory:
        """The run whose directory is the last printed line."""
        assert self.code == 0, self.err
        return RunDirectory.open(self.out.splitlines()[-1])

    @property
    def message(self) -> str:
        """The message of a refused command; checks exit code 2, no other output and no traceback."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.err.startswith("error: ") and self.err.count("error: ") == 1 and self.err.endswith("\n")
        assert "Traceback" not in self.err + self.out and self.out == ""
        return self.err.removeprefix("error: ").removesuffix("\n")


def run_command(*arguments: object) -> Outcome:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["visiontune", *map(str, arguments)])
        patch.setenv("HYDRA_FULL_ERROR", "1")
        try:
            cli.main()
        except SystemExit as leave:
            code = leave.code or 0
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


Command = Callable[..., Outcome]
TrainOnce = Callable[..., Outcome]
