"""Signals become one exception, at once or when the code that postpones them allows."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from visiontune import signals
from visiontune.signals import SIGNALS, Interrupted


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    with signals.listen():
        yield


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the handler reads."""
    clock = [100.0]
    monkeypatch.setattr("visiontune.signals.time.monotonic", lambda: clock[0])
    return clock


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_interrupts(number: signal.Signals) -> None:
    with pytest.raises(Interrupted) as error:
        signal.raise_signal(number)
    assert error.value.number == number and str(error.value) == number.name


def test_handlers_are_restored_and_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    outside = [signal.getsignal(number) for number in SIGNALS]
    with signals.listen():
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert [signal.getsignal(number) for number in SIGNALS] == outside
    signal.signal(signal.SIGHUP, before)


def test_a_signal_is_postponed_to_the_end_of_the_outer_block() -> None:
    steps = []

    @signals.postponed()
    def work() -> None:
        with signals.postponed():
            signal.raise_signal(signal.SIGTERM)
            steps.append("inner")
        steps.append("outer")

    with pytest.raises(Interrupted, match="SIGTERM"):
        work()
    assert steps == ["inner", "outer"]
    with signals.postponed():  # of the code that handles the exception
        steps.append("cleanup")
    with pytest.raises(Interrupted):
        signals.check()  # a library may have swallowed it


def test_an_error_in_a_postponing_block_comes_first() -> None:
    @signals.postponed()
    def work() -> None:
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        work()
    try:
        raise ValueError("mine")
    except ValueError:
        with signals.postponed():  # writes the status of a run that has failed
            pass


def test_a_second_signal_interrupts_at_once_but_not_one_of_the_same_moment(seconds: list[float]) -> None:
    signals.hold()
    for _ in range(3):  # `timeout` signals its child, and then the whole group
        signal.raise_signal(signal.SIGTERM)
    seconds[0] += 1.1
    with pytest.raises(Interrupted, match="SIGTERM"):
        signal.raise_signal(signal.SIGINT)


def test_signals_are_forwarded(seconds: list[float]) -> None:
    received = []

    @signals.forwarded(lambda *request: received.append(request))
    def work() -> None:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        seconds[0] += 2
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="SIGUSR1"):
        work()
    assert received == [(signal.SIGUSR1, False), (signal.SIGUSR1, True)]


def test_only_the_main_thread_handles_signals() -> None:
    results: list[object] = []

    def work() -> None:
        with signals.postponed():
            results.append(signals.install())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [{}]


def test_a_data_loader_worker_obeys_only_its_parent() -> None:
    ready, wake = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        signals.obey_parent()
        for number in SIGNALS:
            os.kill(os.getpid(), number)
        while signal.sigpending():  # standard signals do not queue
            time.sleep(0.01)
        os.write(wake, b"alive")
        while True:
            signal.pause()
    try:
        assert os.read(ready, 5) == b"alive"
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        os.close(ready)
        os.close(wake)
