"""Signals that stop a command: Ctrl-C, and those of schedulers, containers and closed terminals.

The first signal raises `Interrupted`, at once or when the code that postpones it allows; a second one always at once.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# `timeout`, terminals and Slurm signal all processes of a group, some of them twice.
REPEAT_SECONDS = 1.0
PAUSED = 75  # EX_TEMPFAIL in sysexits.h: the command is to be continued later

Handlers = dict[signal.Signals, Any]


class Interrupted(BaseException):
    """A signal stops the command, with exit code 128 + `number`.

    Lightning turns a KeyboardInterrupt into exit code 1, and libraries catch an Exception.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)  # a launcher of Hydra may pickle it
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number

    @property
    def event(self) -> str:
        return f"interrupted by {self}"

    def __str__(self) -> str:
        return signal.Signals(self.number).name


class Paused(Interrupted):
    """A training has reached `checkpoints.pause_after`, and stops with the exit code `PAUSED`."""

    def __init__(self, epochs: int) -> None:
        super().__init__(epochs)
        self.epochs = epochs

    @property
    def exit_code(self) -> int:
        return PAUSED

    @property
    def event(self) -> str:
        return f"paused after epoch {self.epochs}"

    def __str__(self) -> str:
        return f"checkpoints.pause_after after epoch {self.epochs}"


class Control(Protocol):
    """What stops one rank of several: the process that started it, not the signals that the rank gets itself."""

    def request(self) -> tuple[int, bool] | None:
        """The signal that the other process got, and whether it was a second one; None without a signal."""

    def is_due(self, window: int) -> bool:
        """Whether all ranks stop before this window of batches, counted from 1."""


@dataclass
class _State:
    """What this process knows about its signals."""

    pid: int = 0
    listens: bool = False
    pending: int = 0  # the first signal
    since: float = 0.0  # when it came
    raised: bool = False
    holds: int = 0  # how many blocks postpone it
    control: Control | None = None
    forward: Callable[[int, bool], None] | None = None


_state = _State()


@contextmanager
def listen(control: Control | None = None) -> Iterator[None]:
    """Turn the signals into `Interrupted` within the block.

    Args:
        control: in a rank, what stops it.
    """
    global _state
    before_state, _state = _state, _State(os.getpid(), listens=True, control=control)
    handlers = install()
    try:
        yield
    finally:
        restore(handlers)
        _state = before_state


def install() -> Handlers:
    """Handle the signals of this process; return the previous handlers. Signals that are ignored (nohup) stay ignored.

    Only the main thread can do this; in another one nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    if not _state.listens:  # called from Python, not by the command
        _state.pid, _state.pending, _state.raised, _state.holds = os.getpid(), 0, False, 0
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, _handle)
    return before


def restore(handlers: Handlers) -> None:
    """Set the handlers that `install` returned."""
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def hold() -> None:
    """Postpone the first signal until `release`."""
    _state.holds += 1


def release() -> None:
    """End a `hold`; `check` raises the signal that came meanwhile."""
    _state.holds -= 1


@contextmanager
def held() -> Iterator[None]:
    """Postpone the first signal to the end of the next `postponed` block after this one, or to the next `check`."""
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread only
        yield
        return
    hold()
    try:
        yield
    finally:
        release()


@contextmanager
def postponed() -> Iterator[None]:
    """Raise the first signal at the end of the block. The block may be in any thread."""
    with held():
        yield
    is_main = threading.current_thread() is threading.main_thread()
    # An error that is being handled comes first.
    if is_main and not _state.raised and not _state.holds and sys.exception() is None:
        check()


@contextmanager
def forwarded(forward: Callable[[int, bool], None]) -> Iterator[None]:
    """Call `forward(signal, is_second)` for each signal within the block, and raise the first at its end."""
    check()  # one that came before would not be forwarded
    handlers = install()
    _state.forward = forward
    try:
        yield
    finally:
        _state.forward = None
        restore(handlers)
    check()


def check() -> None:
    """Raise the pending signal.

    Raises:
        Interrupted: a signal has come; also if a library has swallowed the exception of the handler.
    """
    if _state.pending:
        raise _interruption()


def is_controlled() -> bool:
    """Whether this process is a rank that another process stops."""
    return _state.control is not None


def is_due(window: int) -> bool:
    """Whether a training stops before this window of batches, counted from 1; all ranks agree."""
    return bool(_state.pending) if _state.control is None else _state.control.is_due(window)


def interruption() -> Interrupted:
    """The exception for a training that `is_due` stops."""
    request = _state.control.request() if _state.control else None
    _state.pending = request[0] if request else _state.pending
    return _interruption()


def _interruption() -> Interrupted:
    number, _state.raised = _state.pending, True
    if not _state.listens:  # a caller from Python may go on after the exception
        _state.pending = 0
    return Interrupted(number)


def _handle(number: int, frame: Any) -> None:
    if os.getpid() != _state.pid:  # a data-loader worker, which inherits the handler
        return
    now = time.monotonic()
    second = bool(_state.pending) and now - _state.since > REPEAT_SECONDS
    if _state.control is not None:
        request = _state.control.request()
        if request is None:
            return
        number, second = request
    first, _state.pending = not _state.pending, _state.pending or number
    if first:
        _state.since = now
    if _state.forward is not None:
        if first or second:
            _state.forward(_state.pending, second)
    elif second or (first and not _state.holds):
        raise _interruption()


def obey_parent() -> None:
    """In a data-loader worker: only the signals of its parent count, which loads batches until the training stops."""
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_await_parent, args=(os.getppid(),), daemon=True).start()


def _await_parent(parent: int) -> None:
    """End the process when its parent terminates it."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
