"""best.ckpt follows the direction of the monitored metric; last.ckpt the epochs, steps and minutes."""

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from visiontune import signals
from visiontune.callbacks import Checkpoints
from visiontune.callbacks.checkpoints import AtomicCheckpointIO
from visiontune.runs import RunDirectory
from visiontune.signals import SIGNALS, Interrupted, Paused
from visiontune.training.rank_control import RankControl


class Stub:
    """The part of a Trainer that the callback speaks to; writes and notes what is saved."""

    def __init__(self, fn: str = "fit", world: int = 1) -> None:
        self.sanity_checking, self.should_stop, self.is_global_zero = False, False, True
        self.current_epoch, self.max_epochs, self.global_step = 0, 9, 0
        self.world_size, self.accumulate_grad_batches = world, 4
        self.state = SimpleNamespace(fn=fn)
        self.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=None))
        self.strategy = SimpleNamespace(broadcast=lambda value, src: value)
        self.callback_metrics: dict[str, float] = {}
        self.saved: list[str] = []

    def save_checkpoint(self, path: Path, weights_only: bool = False) -> None:
        self.saved.append(path.stem)
        path.write_text(str(self.global_step))


@pytest.fixture
def place(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run")


def made(run: RunDirectory, mode: str = "max", **options: Any) -> Any:
    return Checkpoints(run, ("val/x/y", mode), **options)


def bests(callback: Any, scores: list[float]) -> list[int]:
    """After which of the validations best.ckpt was written."""
    trainer: Any = Stub()
    found = []
    for number, score in enumerate(scores):
        trainer.callback_metrics, trainer.saved = {"val/x/y": score}, []
        callback.on_validation_end(trainer, None)
        assert trainer.saved == []  # what is logged of the epoch is still to come
        callback.on_train_batch_start(trainer, None, None, 0)
        assert trainer.saved[-1] == "next"
        if "best" in trainer.saved:
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
def test_best(mode: str, scores: list[float], expected: list[int], place: RunDirectory) -> None:
    assert bests(made(place, mode), scores) == expected


def test_all_ranks_go_by_one_score(place: RunDirectory) -> None:
    """To the last bit: a rank that alone saw an improvement would wait for the others to save."""
    callback, trainer = made(place), Stub(world=2)
    trainer.strategy = SimpleNamespace(broadcast=lambda value, src: 0.5)
    for score, improved in ((0.5, True), (0.5 - 1e-7, True)):
        trainer.callback_metrics, callback.improved = {"val/x/y": score}, False
        callback.on_validation_end(trainer, None)
        assert callback.best_score == 0.5 and callback.improved is improved


def test_the_best_score_goes_on_after_a_break(place: RunDirectory) -> None:
    first, second = made(place), made(place)
    bests(first, [0.8])
    second.load_state_dict(first.state_dict())
    assert bests(second, [0.7, 0.9]) == [1]


def steps_saved(
    callback: Any, trainer: Any, batches: int, minutes: list[float], patch: pytest.MonkeyPatch
) -> list[int]:
    """Before which of the batches last.ckpt was written, with a step every four of them."""
    patch.setattr("visiontune.callbacks.checkpoints.time.monotonic", lambda: 60 * minutes[0])
    callback.on_train_start(trainer, None)
    found = []
    for batch in range(batches):
        minutes[0] += 1
        trainer.global_step, trainer.saved = batch // 4, []
        callback.on_train_batch_start(trainer, None, None, batch)
        if trainer.saved:
            found.append(batch)
    return found


@pytest.mark.parametrize(
    ("options", "world", "expected"),
    [
        ({}, 1, []),
        ({"every_steps": 2}, 1, [8, 16, 24]),
        ({"every_minutes": 9}, 1, [8, 17, 26]),  # within an accumulation window as well
        ({"every_minutes": 9}, 2, [8, 20]),  # where each process has gradients of its own
        ({"every_steps": 4, "every_minutes": 9.5}, 1, [9, 19, 29]),  # whichever comes first
    ],
)
def test_intervals(
    options: dict[str, Any], world: int, expected: list[int], place: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer: Any = Stub(world=world)
    assert steps_saved(made(place, **options), trainer, 30, [0.0], monkeypatch) == expected
    assert trainer.fit_loop.epoch_loop._batches_that_stepped == trainer.global_step == 7


def test_the_one_before_stays_until_the_training_ends(place: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    callback, trainer = made(place, every_steps=1), Stub()
    steps_saved(callback, trainer, 12, [0.0], monkeypatch)
    assert {path.name: path.read_text() for path in place.checkpoints.iterdir()} == {
        "last.ckpt": "2",
        "previous.ckpt": "1",
    }
    trainer.callback_metrics = {"val/x/y": 1.0}
    callback.on_validation_end(trainer, None)
    callback.on_train_end(trainer, None)
    assert {path.name for path in place.checkpoints.iterdir()} == {"last.ckpt", "best.ckpt"}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_between_two_batches(number: signal.Signals, place: RunDirectory) -> None:
    callback, trainer, before = made(place), Stub(), signal.getsignal(number)
    callback.on_train_start(trainer, None)
    callback.on_train_batch_start(trainer, None, None, 2)
    signal.raise_signal(number)
    assert trainer.saved == []
    with pytest.raises(Interrupted, match=number.name):
        callback.on_train_batch_start(trainer, None, None, 3)
    assert trainer.saved == ["next"] and (place.checkpoints / "last.ckpt").is_file()
    callback.on_exception(trainer, None, Interrupted(number))
    assert signal.getsignal(number) is before


def test_a_training_pauses_after_a_number_of_epochs(place: RunDirectory) -> None:
    callback, trainer = made(place, pause_after=2), Stub()
    callback.on_train_start(trainer, None)
    trainer.current_epoch = 1
    callback.on_train_batch_start(trainer, None, None, 0)
    trainer.current_epoch = 2
    with pytest.raises(Paused, match="after epoch 2"):
        callback.on_train_batch_start(trainer, None, None, 0)
    assert trainer.saved == ["next"] and (place.checkpoints / "last.ckpt").is_file()


def test_before_the_first_batch_there_is_nothing_to_save(place: RunDirectory) -> None:
    callback, trainer = made(place), Stub()
    callback.on_train_start(trainer, None)
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)
    callback.on_exception(trainer, None, Interrupted(signal.SIGTERM))
    assert trainer.saved == []


def test_a_signal_in_the_last_validation_stops_after_the_last_checkpoint(place: RunDirectory) -> None:
    callback, trainer = made(place), Stub()
    callback.on_train_start(trainer, None)
    callback.on_train_batch_start(trainer, None, None, 0)
    signal.raise_signal(signal.SIGTERM)
    trainer.callback_metrics = {"val/x/y": 1.0}
    callback.on_validation_end(trainer, None)
    with pytest.raises(Interrupted):
        callback.on_train_end(trainer, None)
    assert trainer.saved == ["best", "next"]


def test_ranks_that_nobody_controls_handle_no_signals(place: RunDirectory) -> None:
    before = signal.getsignal(signal.SIGTERM)
    made(place).on_train_start(Stub(world=2), None)  # they would wait for each other
    assert signal.getsignal(signal.SIGTERM) is before


def test_ranks_stop_before_the_same_window_of_batches(place: RunDirectory) -> None:
    """The signal comes when rank 1 has begun a window, and rank 0 the one before; a window has four batches."""
    controls = [RankControl(), RankControl()]
    controls[1].values, controls[1].rank = controls[0].values, 1
    stops: list[list[int]] = [[], []]
    callbacks = [made(place), made(place)]

    def begin(rank: int, batch: int) -> None:
        with signals.listen(controls[rank]):
            try:
                callbacks[rank].handlers = {signal.SIGTERM: signal.SIG_DFL}
                callbacks[rank].on_train_batch_start(Stub(world=2), None, None, batch)
            except Interrupted:
                stops[rank].append(batch)
            signals.restore({})

    for batch in range(4):
        begin(0, batch)
        begin(1, batch)
    begin(1, 4)
    controls[0].stop(signal.SIGTERM, False, [])
    for batch in range(4, 9):
        begin(0, batch)
    for batch in range(5, 9):
        begin(1, batch)
    assert stops == [[8], [8]]


def test_early_stopping_is_remembered(place: RunDirectory) -> None:
    callback, trainer = made(place), Stub()
    trainer.should_stop = True
    callback.on_train_end(trainer, None)
    for epochs, stops in ((9, True), (20, False)):
        again, other = made(place), Stub()
        again.load_state_dict(callback.state_dict())
        other.max_epochs = epochs
        again.on_train_start(other, None)
        assert other.should_stop is stops


def test_other_passes_save_nothing(place: RunDirectory) -> None:
    callback, trainer = made(place), Stub("validate")
    callback.on_validation_end(trainer, None)
    callback.on_train_end(trainer, None)
    assert trainer.saved == []


def test_what_could_not_be_read_again_is_found_at_once(tmp_path: Path) -> None:
    """And not after the training, when the best checkpoint is loaded."""
    with pytest.raises(RuntimeError, match=r"^a callback's state holds pathlib\S*PosixPath, so that no checkpoint"):
        AtomicCheckpointIO().save_checkpoint({"callbacks": {"Mine": {"folder": tmp_path}}}, tmp_path / "a.ckpt")
    files = AtomicCheckpointIO()
    files.save_checkpoint({"callbacks": {"Mine": {"folder": str(tmp_path)}}}, tmp_path / "a.ckpt")
    assert files.checked
