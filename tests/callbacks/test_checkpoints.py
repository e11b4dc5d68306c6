"""best.ckpt follows the direction of the monitored metric."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from visiontune.callbacks import Checkpoints


class Stub:
    """The part of a Trainer that the callback speaks to; notes what is saved."""

    def __init__(self, fn: str = "fit") -> None:
        self.sanity_checking, self.current_epoch, self.world_size = False, 0, 1
        self.state = SimpleNamespace(fn=fn)
        self.callback_metrics: dict[str, float] = {}
        self.saved: list[str] = []

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append(path.name)


def bests(mode: str, scores: list[float], callback: Checkpoints | None = None) -> list[int]:
    """After which of the validations best.ckpt was written."""
    callback, trainer = callback or Checkpoints(Path("c"), ("val/x/y", mode)), Stub()
    found = []
    for number, score in enumerate(scores):
        trainer.callback_metrics, trainer.saved = {"val/x/y": score}, []
        callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
        assert trainer.saved[-1] == "last.ckpt"
        if "best.ckpt" in trainer.saved:
            found.append(number)
    return found


@pytest.mark.parametrize(
    ("mode", "scores", "expected"),
    [
        ("max", [0.5, 0.4, 0.6, 0.6, 0.7], [0, 2, 3, 4]),  # of equal ones the later
        ("min", [0.5, 0.4, 0.6, 0.4, 0.3], [0, 1, 3, 4]),
        ("max", [float("nan"), 0.1, float("nan"), 0.2], [1, 3]),
    ],
)
def test_best(mode: str, scores: list[float], expected: list[int]) -> None:
    assert bests(mode, scores) == expected


def test_the_best_score_goes_on_after_a_break() -> None:
    first = Checkpoints(Path("c"), ("val/x/y", "max"))
    bests("max", [0.8], first)
    second = Checkpoints(Path("c"), ("val/x/y", "max"))
    second.load_state_dict(first.state_dict())
    assert bests("max", [0.7, 0.9], second) == [1]


@pytest.mark.parametrize(
    ("fn", "error", "world", "expected"),
    [
        ("fit", KeyboardInterrupt(), 1, ["last.ckpt"]),
        ("fit", ValueError(), 1, []),  # a fault may have left the weights as they should not be
        ("fit", KeyboardInterrupt(), 2, []),  # the others would be waited for
        ("test", KeyboardInterrupt(), 1, []),
    ],
)
def test_an_interrupted_run_is_kept(fn: str, error: BaseException, world: int, expected: list[str]) -> None:
    trainer: Any = Stub(fn)
    trainer.world_size = world
    Checkpoints(Path("c"), ("val/x/y", "max")).on_exception(trainer, None, error)  # type: ignore[arg-type]
    assert trainer.saved == expected


def test_other_passes_save_nothing() -> None:
    trainer: Any = Stub("validate")
    Checkpoints(Path("c"), ("val/x/y", "max")).on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert trainer.saved == []
