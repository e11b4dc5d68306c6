"""Ranks end together, with one message; signals stop them before the same batch, and none outlives its parent."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from visiontune import signals
from visiontune.errors import RunError, UserError
from visiontune.runs import RunDirectory
from visiontune.signals import Interrupted
from visiontune.training import launch
from visiontune.training.launch import fit_ranks

pytestmark = pytest.mark.usefixtures("forked")


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """`fit(function)`: run `function(rank, folder)` in two ranks."""

    def run(function: Callable[[int, Path], None]) -> None:
        monkeypatch.setattr(launch, "_fit_rank", lambda rank, *_: function(rank, tmp_path))
        fit_ranks(RunDirectory(tmp_path), 2, None)

    return run


def wait_for_signal(rank: int, folder: Path, signal_at: int = 0) -> None:
    """A rank that trains for 20 seconds. It writes its process id, and before which window of batches it stops.

    Args:
        signal_at: the window in which rank 0 signals its parent, and both signal themselves before and after it.
    """
    (folder / f"{rank}.pid").write_text(str(os.getpid()))
    signals.hold()
    for window in range(1, 2000):
        if window == signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
            if rank == 0:
                os.kill(os.getppid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)
        if signals.is_due(window):
            (folder / f"{rank}.txt").write_text(str(window))
            raise signals.interruption()
        (folder / f"{rank}.at").write_text(str(window))
        while int(read(folder / f"{1 - rank}.at") or 0) < window:  # as a training sums gradients
            time.sleep(0.005)
        time.sleep(0.01)


def read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def is_alive(process: int) -> bool:
    path = Path(f"/proc/{process}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("out of luck"), "rank 1 failed: ValueError: out of luck (debug=true shows where)"),
        (RunError("the disk is full"), "the disk is full"),
        (UserError("no such column"), "no such column"),
    ],
)
def test_a_rank_that_fails_is_one_line(error: Exception, message: str, fit: Callable[..., None]) -> None:
    def work(rank: int, folder: Path) -> None:
        if rank == 1:
            raise error
        time.sleep(20)

    start = time.monotonic()
    with pytest.raises(RunError) as caught:
        fit(work)
    assert str(caught.value) == message and "raise error" in str(caught.value.__cause__)
    assert time.monotonic() - start < 15


def test_a_rank_that_is_killed(fit: Callable[..., None]) -> None:
    def work(rank: int, folder: Path) -> None:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(20)

    with pytest.raises(RunError, match=r"^rank 1 has ended with SIGKILL, and the other ranks were stopped: the system"):
        fit(work)


def test_the_signal_of_the_parent_stops_all_ranks(fit: Callable[..., None], tmp_path: Path) -> None:
    """Also if the ranks get signals themselves, before and after the parent, as from a terminal."""
    with signals.listen(), pytest.raises(Interrupted, match="SIGUSR1"):
        fit(partial(wait_for_signal, signal_at=5))
    assert int(read(tmp_path / "0.txt")) == int(read(tmp_path / "1.txt")) > 5


def test_before_the_training_the_ranks_stop_at_once(fit: Callable[..., None], tmp_path: Path) -> None:
    def work(rank: int, folder: Path) -> None:
        if rank == 0:
            os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(20)

    start = time.monotonic()
    with signals.listen(), pytest.raises(Interrupted, match="SIGTERM"):
        fit(work)
    assert time.monotonic() - start < 15


def test_no_rank_outlives_its_parent(fit: Callable[..., None], tmp_path: Path) -> None:
    parent = os.fork()
    if parent == 0:
        try:
            fit(wait_for_signal)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 20
    files = [tmp_path / f"{rank}.pid" for rank in range(2)]
    while not all(map(read, files)) and time.monotonic() < deadline:
        time.sleep(0.05)
    ranks = [int(read(file)) for file in files]
    assert all(map(is_alive, ranks))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while any(map(is_alive, ranks)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, ranks))
