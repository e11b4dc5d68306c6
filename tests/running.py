"""A command's outcome, and settings that keep a run short."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from visiontune.runs import RunDirectory

# A network of some thousand parameters on images of 16 pixels.
SMALL = [
    "trainer=cpu",
    "backbone=small_cnn",
    "backbone.widths=[4,8]",
    "backbone.depth=1",
    "data.image_size=16",
    "data.num_workers=0",
]
# Real digits from memory, a second a run.
TINY = [*SMALL, "trainer.max_epochs=1", "data.limit_train=64", "logger=none"]
# Drawn scenes that have a target for every head.
SCENES = ["data=digit_scenes", "data.scenes=40", "data.batch_size=8", "data.image_size=64"]
# By head: without the widths for a GPU. The best box of an untrained detector would be below the usual threshold.
NARROW = {
    "detection": ["score_threshold=0.01", "channels=64"],
    "instances": ["score_threshold=0.01", "channels=32", "hidden=32", "proposals=50", "samples=16"],
}


def mostly_slow(values: Iterable[Any], *quick: object) -> list[Any]:
    """Parameters of a test, of which only `quick` belong to `make test`."""

    def slow(value: Any) -> Any:
        return pytest.param(*(value if isinstance(value, tuple) else [value]), marks=pytest.mark.slow)

    return [value if value in quick else slow(value) for value in values]


TECHNIQUES = ("ema", "swa", "sam", "l2_sp", "wise_ft", "auto_rgn")


def what_trains(name: str) -> list[str]:
    """Overrides for a strategy and techniques: `lp_ft+sam`, `full` or `swa` (with strategy=full)."""
    parts = name.split("+")
    techniques = [part for part in parts if part in TECHNIQUES]
    average = [] if {"ema", "swa"} & set(techniques) else ["ema"]
    (strategy,) = [part for part in parts if part not in techniques] or ["full"]
    return [f"strategy={strategy}", f"technique=[{','.join(average + techniques)}]"]


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def run(self) -> RunDirectory:
        """The run whose directory is the last line printed."""
        assert self.code == 0, self.err
        return RunDirectory.open(self.out.splitlines()[-1])

    @property
    def message(self) -> str:
        """The one message of a refused command: exit code 2, nothing else printed, no traceback."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.err.startswith("error: ") and self.err.count("error: ") == 1 and self.err.endswith("\n")
        assert "Traceback" not in self.err + self.out and self.out == ""
        return self.err.removeprefix("error: ").removesuffix("\n")


Command = Callable[..., Outcome]
TrainOnce = Callable[..., Outcome]
