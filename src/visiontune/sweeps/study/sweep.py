"""The directory of a sweep: its jobs, what has become of them, and which is next.

Each job is a trial of an Optuna study, with a run directory that has the number of the trial. What a run directory and
the locks say is true; the study repeats it.
"""

import math
import shutil
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from visiontune.errors import first_line
from visiontune.runs.directory import RunDirectory
from visiontune.sweeps.study.entries import Entry, read_run
from visiontune.sweeps.study.locks import SweepLocks
from visiontune.sweeps.study.paths import ERROR, output_path, run_path
from visiontune.sweeps.study.settings import Settings
from visiontune.sweeps.study.storage import create_study, load_study
from visiontune.sweeps.study.suggest import suggest

OUTPUT_BYTES = 100_000  # at the end of a job's output, where its error is
OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "CUDA out of memory", "Cannot allocate memory")


@dataclass(frozen=True)
class Job:
    """One training of a sweep.

    Attributes:
        overrides: of its command line.
        text: those that the sweep varies, as typed into a shell.
        identity: equal for equal configs, whatever their order in the sweep.
        params: the numeric keys that the sweep varies; in a search, the values that are not drawn.
        attributes: further attributes of the trial.
    """

    overrides: list[str]
    text: str
    identity: str
    params: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)


class Sweep:
    """An existing sweep, as one process sees it. Its study has one trial for each job, and one more for each rerun."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._opened = time.monotonic()
        self.settings = Settings.read(self.path)
        self._finished: dict[int, Entry] = {}  # they change no more, and reading takes time
        self.study = load_study(self.path, self.settings)

    @classmethod
    def create(cls, path: Path, settings: Settings, direction: Literal["maximize", "minimize"]) -> "Sweep":
        """Create a study in `path`, an existing folder, unless it has one.

        Args:
            direction: of the objective.

        Raises:
            UserError: see `create_study`.
        """
        with SweepLocks(path / "study.locks").schedule():
            create_study(path, settings, direction)
            settings.write(path)
        return cls(path)

    @cached_property
    def locks(self) -> SweepLocks:
        """Not opened by who only reads, who may not be allowed to write."""
        return SweepLocks(self.path / "study.locks")

    def entries(self) -> list[Entry]:
        """What is known of each job, in the order in which the jobs were added."""
        return [self._entry(trial) for trial in self.latest()]

    def _entry(self, trial: FrozenTrial) -> Entry:
        if trial.number in self._finished:
            return self._finished[trial.number]
        path = run_path(self.path, trial.number)
        has_run = (path / "config.yaml").is_file()
        entry = read_run(RunDirectory.open(path)) if has_run else Entry(path, [], {"status": "unknown"})
        status, error = entry.status, trial.user_attrs.get("error", "")
        if trial.state == TrialState.FAIL and status["status"] != "failed":
            status = {**status, "status": "failed", "objective": None}
        elif not has_run:
            status = {**status, "status": "waiting" if trial.state == TrialState.WAITING else "running"}
        entry = replace(entry, overrides=trial.user_attrs["overrides"], status=status, error=error)
        if trial.state.is_finished():
            self._finished[trial.number] = entry
        return entry

    def exhausted(self) -> str:
        """The limit after which this command starts no job, such as `sweep.max_hours=8`; empty before it is reached."""
        hours = self.settings.max_hours
        is_over = hours is not None and time.monotonic() - self._opened > 3600 * hours
        return f"sweep.max_hours={hours}" if is_over else ""

    def is_done(self) -> bool:
        """Whether no job runs, and none is started."""
        states = [TrialState.RUNNING] if self.exhausted() else [TrialState.RUNNING, TrialState.WAITING]
        return not self.trials(*states)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in some states, or all of them."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def latest(self) -> list[FrozenTrial]:
        """The last trial of each job, in the order in which the jobs were added."""
        return list({trial.user_attrs["job"]: trial for trial in self.trials()}.values())

    def add(self, jobs: Iterable[Job]) -> int:
        """Queue the jobs that are new, and those that have failed; return their number."""
        states = {trial.user_attrs["job"]: trial.state for trial in self.latest()}
        queue = [job for job in jobs if states.get(job.identity, TrialState.FAIL) == TrialState.FAIL]
        ranges = self.study.user_attrs.get("ranges", {})
        for key, value in (item for job in queue if not job.attributes for item in job.params.items()):
            low, high = ranges.get(key, (value, value))
            ranges[key] = (min(low, value), max(high, value))
        self.study.set_user_attr("ranges", ranges)
        for job in queue:
            attributes = {"job": job.identity, "overrides": job.overrides, "text": job.text, **job.attributes}
            self.study.enqueue_trial(job.params, attributes)
        return len(queue)

    def requeue_failed(self) -> int:
        """Queue a new trial for each job that has failed, unless a job runs; return their number."""
        if any(self.locks.is_held(trial.number) for trial in self.trials(TrialState.RUNNING)):
            return 0
        failed = [trial for trial in self.latest() if trial.state == TrialState.FAIL]
        for trial in failed:
            names = ("job", "overrides", "text", "suggestion", "repeat")
            attributes = {key: trial.user_attrs[key] for key in names if key in trial.user_attrs}
            self.study.enqueue_trial(trial.system_attrs["fixed_params"], attributes)
        return len(failed)

    def claim(self) -> FrozenTrial | None:
        """Take the next job that waits, and its lock; None if none waits. The caller holds the lock of the schedule."""
        self.reconcile()
        waiting = self.trials(TrialState.WAITING)
        if not waiting or self.exhausted():
            return None
        number = self.study.ask(suggest(self.study, waiting[0])).number
        self.locks.hold(number)
        path = run_path(self.path, number)
        if path.is_dir() and not (path / "config.yaml").is_file():  # killed before it could be resumed
            shutil.rmtree(path)
        return self.trials()[number]

    def reconcile(self) -> None:
        """Conclude the jobs whose worker has ended without it. The caller holds the lock of the schedule."""
        for trial in self.trials(TrialState.RUNNING):
            if not self.locks.is_held(trial.number) and self.read_status(trial.number)["status"] != "running":
                self.conclude(trial.number, stopped=True)

    def conclude(self, number: int, stopped: bool = False, exit_code: int | None = None) -> FrozenTrial:
        """Tell the study what has become of a job whose process has ended; the caller holds the lock of the schedule.

        Args:
            stopped: the job was stopped together with its worker, so it waits and is resumed.
            exit_code: of the process, negative if a signal has killed it; None if another process had started it.
        """
        trial, status = self.trials()[number], self.read_status(number)
        value = (status.get("objective") or {}).get("value", math.nan)
        if status["status"] == "finished" and math.isfinite(value):
            self.study.tell(number, value)
            output_path(self.path, number).unlink(missing_ok=True)
            return self.trials()[number]
        error, attempts = self._error(number, status, stopped, exit_code), trial.user_attrs.get("attempts", 0)
        is_machine = error is not None and (_is_signal(exit_code) or any(text in error for text in OUT_OF_MEMORY))
        if error is None or (is_machine and attempts < self.settings.max_retries):
            self._set(trial, "attempts", attempts + is_machine)
            self.study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        else:
            self._set(trial, "error", error)
            self.study.tell(number, state=TrialState.FAIL)
        return self.trials()[number]

    def read_status(self, number: int) -> dict[str, Any]:
        """The content of a run's status.json; its status is `unknown` if the run has none."""
        return RunDirectory(run_path(self.path, number)).read_status()

    def _set(self, trial: FrozenTrial, name: str, value: Any) -> None:
        self.study._storage.set_trial_user_attr(trial._trial_id, name, value)

    def _error(self, number: int, status: dict[str, Any], stopped: bool, exit_code: int | None) -> str | None:
        """Why a job has not finished, in one line; None if it can be resumed."""
        if status["status"] == "finished":
            objective = status.get("objective") or {}
            return f"{objective.get('name')} is {objective.get('value')}: expected a finite number"
        if status["status"] == "failed":
            return first_line(status.get("error", "failed")).rstrip(": ")
        if exit_code in (0, 1, 2):
            return self._printed_error(number) or f"ended with exit code {exit_code} and without a result"
        if stopped or exit_code is None:
            return None
        if exit_code == -signal.SIGKILL:
            return "killed by SIGKILL: the system may have run out of memory"
        return f"stopped by {signal.Signals(-exit_code if exit_code < 0 else exit_code - 128).name}"

    def _printed_error(self, number: int) -> str | None:
        """The last error that a job has printed."""
        path = output_path(self.path, number)
        lines = path.read_text(errors="replace")[-OUTPUT_BYTES:].splitlines() if path.is_file() else []
        return next((line.removeprefix(ERROR) for line in reversed(lines) if line.startswith(ERROR)), None)


def _is_signal(exit_code: int | None) -> bool:
    return exit_code is not None and (exit_code < 0 or exit_code > 128)
