"""Fit with several ranks, one process each."""

import math
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from visiontune import signals
from visiontune.errors import RunError, UserError
from visiontune.loggers import open_loggers
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import logging_to
from visiontune.runs.processes import end_with
from visiontune.training.build import build_data, build_trainer
from visiontune.training.fit import build_model, fit, seed_everything
from visiontune.training.rank_control import RankControl
from visiontune.training.resume import explain_failed_write

GRACE_SECONDS = 15.0  # for ranks that should end
MAX_TEXT = 20_000  # characters of a traceback, less than a pipe holds

# When it was raised, rank, message, traceback, and whether the message is for the user.
Report = tuple[float, int, str, str, bool]


def fit_ranks(run: RunDirectory, ranks: int, checkpoint: Path | None) -> None:
    """Fit `run` in one process per rank and wait.

    Each rank builds its objects from `config.yaml`. Lightning's launchers would train the same weights, but:

    - `ddp` starts the command line again for each rank, in a sweep with all of its jobs.
    - `ddp_fork` hangs if the parent process has used OpenMP with two or more threads, and Lightning refuses it if the
      parent has used CUDA, which every job of a sweep does when it evaluates.
    - `ddp_spawn` pickles the Trainer, which fails with an open TensorBoard logger.

    Signals that this process gets stop all ranks, see `RankControl`. No rank outlives this process.

    Raises:
        RunError: a rank failed; the others are stopped. The cause holds its traceback.
        Interrupted: a signal has stopped the ranks, or `checkpoints.pause_after`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    control, errors = RankControl(), get_context("spawn").SimpleQueue()
    processes: list[Any] = []

    def stop(number: int, at_once: bool) -> None:
        control.stop(number, at_once, [process.pid for process in processes if process.is_alive()])

    with signals.forwarded(stop):
        with _blocked_signals():  # until the processes are known, and can be stopped
            arguments = (ranks, port, run.path, checkpoint)
            context: Any = torch.multiprocessing.spawn(
                _run_rank, (control, errors, os.getpid(), arguments), nprocs=ranks, join=False
            )
            processes += context.processes
        if request := control.request():  # another thread of this process took the signal before they were known
            stop(*request)
        try:
            failed = _join(processes, control)
        finally:
            for process in processes:
                process.kill()
        reports = [errors.get() for _ in iter(errors.empty, True)]
        if failed is not None or any(is_known for *_, is_known in reports):
            raise _error(processes, failed, reports)
        if any(process.exitcode == signals.PAUSED for process in processes):
            raise signals.Paused(run.read_config().checkpoints.pause_after)


def _join(processes: list[Any], control: RankControl) -> int | None:
    """Wait until all ranks have ended; return the first that failed although nothing stops them.

    When one has failed, the others are stopped. They also get `GRACE_SECONDS` after the first has stopped, and after a
    second signal.
    """
    failed, deadline = None, math.inf
    while alive := [process for process in processes if process.exitcode is None]:
        wait([process.sentinel for process in alive], timeout=1)
        request, failures = control.request(), _failures(processes)
        if deadline == math.inf and (failures or (request and request[1])):
            deadline = time.monotonic() + GRACE_SECONDS
            if request is None:
                failed = failures[0]
                control.stop(signal.SIGTERM, True, [process.pid for process in alive])
        elif time.monotonic() > deadline:
            for process in alive:
                process.kill()
    failures = _failures(processes)
    return failures[0] if failures and control.request() is None else failed


def _failures(processes: list[Any]) -> list[int]:
    """The ranks that have ended with an error."""
    return [rank for rank, process in enumerate(processes) if process.exitcode not in (None, 0, signals.PAUSED)]


def _error(processes: list[Any], failed: int | None, reports: list[Report]) -> RunError:
    """The error of the rank that raised first, since the others then lose their connection to it."""
    code = processes[failed].exitcode if failed is not None else 0
    if code < 0 or not reports:
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        hint = ": the system may have run out of memory, so try a smaller data.batch_size" if code == -9 else ""
        return RunError(f"rank {failed} has ended with {ending}, and the other ranks were stopped{hint}")
    _, rank, message, text, is_known = min(reports)
    error = RunError(message if is_known else f"rank {rank} failed: {message} (debug=true shows where)")
    error.__cause__ = RuntimeError(text)
    return error


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block the signals in this thread, and in processes that it starts, until the block ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_rank(rank: int, control: RankControl, errors: Any, parent: int, arguments: tuple[Any, ...]) -> None:
    """Fit as one rank, in its own process; send an error to the parent."""
    end_with(parent)
    control.rank = rank
    try:
        with signals.listen(control):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.SIGNALS)
            _fit_rank(rank, *arguments)
    except signals.Interrupted as error:
        sys.exit(error.exit_code)
    except Exception as error:
        is_known = isinstance(error, UserError | RunError)
        message = str(error) if is_known else traceback.format_exception_only(error)[-1].strip()
        errors.put((time.monotonic(), rank, message, traceback.format_exc()[-MAX_TEXT:], is_known))
        sys.exit(1)


def _fit_rank(rank: int, ranks: int, port: int, path: Path, checkpoint: Path | None) -> None:
    for name in [name for name in os.environ if name.startswith("TORCHELASTIC_")]:  # of another launcher
        del os.environ[name]
    os.environ |= {  # what Lightning and torch read in a process that they did not start
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() // ranks))
    run = RunDirectory.open(path)
    with explain_failed_write(run), logging_to(run.log if rank == 0 else None, quiet=rank > 0):
        cfg = run.read_config()
        seed_everything(cfg.seed)
        data = build_data(cfg)
        data.assign_as(run.splits)
        model, _ = build_model(cfg, data, load=checkpoint is None)
        with ExitStack() as stack:
            loggers = stack.enter_context(open_loggers(cfg, run.path)) if rank == 0 else []
            fit(cfg, run, build_trainer(cfg, run, model, loggers), model, data, checkpoint)
