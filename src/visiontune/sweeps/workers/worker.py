"""Runs the jobs of a sweep, each in a process of its own, until none is left."""

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from optuna.trial import FrozenTrial, TrialState

from visiontune import signals
from visiontune.sweeps.study.pruning import STOP
from visiontune.sweeps.study.sweep import Sweep
from visiontune.sweeps.workers.job_process import Train, run, run_in_process
from visiontune.sweeps.workers.progress import Progress
from visiontune.sweeps.workers.slots import Slot

CONTEXT = multiprocessing.get_context("forkserver")
POLL_SECONDS = 1.0
SIGNAL = 128  # the exit code of a command that signal 1 has stopped is 129


class Worker:
    """Runs a job in each of its slots, always the next one that waits."""

    def __init__(self, sweep: Sweep, slots: list[Slot], train: Train, progress: Progress) -> None:
        """Args:
        train: trains or resumes the run of a config; a function of a module, which the process of a job imports.
        """
        self.sweep = sweep
        self.slots = slots
        self.train = train
        self.progress = progress
        self.jobs: dict[int, tuple[int, BaseProcess]] = {}  # by slot: number of the trial and its process
        self.signal: int | None = None  # that stops the jobs

    def run(self, until_all: bool) -> None:
        """Run jobs until none waits.

        Args:
            until_all: also until the jobs of other workers have ended; a job whose worker is killed is resumed here.

        Raises:
            Interrupted: a signal has stopped the jobs, which wait again.
        """
        with signals.forwarded(self._stop):
            try:
                self._step()
                while self.jobs or (self.signal is None and not self.sweep.is_done(until_all)):
                    wait([process.sentinel for _, process in self.jobs.values()], timeout=POLL_SECONDS)
                    self._step()
                    self._prune()
                    self.progress.update()
            finally:
                for _, process in self.jobs.values():
                    process.kill()

    def _step(self) -> None:
        """Conclude the jobs that have ended, and start others in their slots."""
        ended = {slot: job for slot, job in self.jobs.items() if job[1].exitcode is not None}
        outcomes, claimed = [], {}
        with self.sweep.locks.schedule():  # once, so that other workers see that this one lives
            for slot, (number, process) in ended.items():
                outcomes.append(self.sweep.conclude(number, self.signal is not None, process.exitcode))
                self.sweep.locks.release(number)
                del self.jobs[slot]
            if self.sweep.settings.fail_fast and any(trial.state == TrialState.FAIL for trial in outcomes):
                self._stop(signal.SIGTERM, False)
            for slot in range(len(self.slots)):
                if slot not in self.jobs and self.signal is None and (trial := self.sweep.claim()) is not None:
                    claimed[slot] = trial
        for trial in outcomes:
            self.progress.ended(trial)
        if claimed:
            preload()
        for slot, trial in claimed.items():
            self.progress.started(trial)
            self.jobs[slot] = trial.number, self._start(trial, self.slots[slot])
            if self.signal is not None:  # it came after the job was claimed
                _send(self.signal, self.jobs[slot][1])

    def _prune(self) -> None:
        """Stop the jobs whose scores are too low."""
        processes = dict(self.jobs.values())
        for number in self.sweep.report(processes):
            _send(signal.SIGTERM, processes[number])

    def _start(self, trial: FrozenTrial, slot: Slot) -> BaseProcess:
        attributes = trial.user_attrs
        arguments = (self.train, self.sweep.path, trial.number, attributes["overrides"], attributes.get(STOP), slot)
        process = CONTEXT.Process(target=run_in_process, args=arguments)
        process.start()
        return process

    def _stop(self, number: int, at_once: bool) -> None:
        """Send a signal to the jobs; the second one kills them."""
        self.signal = number
        for _, process in list(self.jobs.values()):
            _send(signal.SIGKILL if at_once else number, process)


def _send(number: int, process: BaseProcess) -> None:
    with suppress(ProcessLookupError):
        if process.pid is not None and process.exitcode is None:
            os.kill(process.pid, number)


def run_here(sweep: Sweep, train: Train, progress: Progress) -> None:
    """Run the jobs one after another in this process, as a debugger needs it.

    Raises:
        Interrupted: a signal has stopped a job, which waits again.
    """
    while True:
        with sweep.locks.schedule():
            trial = sweep.claim()
        if trial is None and sweep.is_done(everywhere=False):
            return
        if trial is None:  # other workers run jobs that decide which of those that wait start
            time.sleep(POLL_SECONDS)
            continue
        progress.started(trial)
        exit_code = run(train, sweep.path, trial.number, trial.user_attrs["overrides"], trial.user_attrs.get(STOP))
        with sweep.locks.schedule():
            trial = sweep.conclude(trial.number, exit_code > SIGNAL, exit_code)
            sweep.locks.release(trial.number)
        progress.ended(trial)
        if exit_code > SIGNAL:
            raise signals.Interrupted(exit_code - SIGNAL)
        if trial.state == TrialState.FAIL and sweep.settings.fail_fast:
            return


def preload() -> None:
    """Start the process whose forks are the jobs, unless it runs; it imports everything meanwhile."""
    CONTEXT.set_forkserver_preload(["visiontune.sweeps.workers.job_process", "visiontune.train"])
    forkserver.ensure_running()
