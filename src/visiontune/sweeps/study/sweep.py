"""The directory of a sweep: its jobs, what has become of them, and which is next.

Each job is a trial of an Optuna study, with a run directory that has the number of the trial. What a run directory and
the locks say is true; the study repeats it.
"""

import math
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from optuna.trial import FrozenTrial, Trial, TrialState

from visiontune.runs.directory import RunDirectory
from visiontune.sweeps.study.endings import find_error, has_machine_stopped
from visiontune.sweeps.study.entries import Entry, read_run
from visiontune.sweeps.study.locks import SweepLocks
from visiontune.sweeps.study.objectives import read_values
from visiontune.sweeps.study.paths import output_path, run_path
from visiontune.sweeps.study.pruner import Pruner
from visiontune.sweeps.study.pruning import Pruning
from visiontune.sweeps.study.settings import Settings
from visiontune.sweeps.study.storage import create_study, load_study
from visiontune.sweeps.study.suggest import suggest


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
        pruner = self.settings.pruner
        self.pruning = Pruning(self.path, self.study, Pruner(**pruner)) if pruner else None

    @classmethod
    def create(cls, path: Path, settings: Settings, *directions: Literal["maximize", "minimize"]) -> "Sweep":
        """Create a study in `path`, an existing folder, unless it has one.

        Args:
            directions: of the objectives, `maximize` or `minimize`.

        Raises:
            UserError: see `create_study`.
        """
        with SweepLocks(path / "study.locks").schedule():
            create_study(path, settings, *directions)
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
        modes = self.settings.objectives
        entry = read_run(RunDirectory.open(path), modes) if has_run else Entry(path, [], {"status": "unknown"})
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
        hours, epochs = self.settings.max_hours, self.settings.max_epochs
        if hours is not None and time.monotonic() - self._opened > 3600 * hours:
            return f"sweep.max_hours={hours}"
        if epochs is not None and sum(self._entry(trial).epochs for trial in self.trials()) >= epochs:
            return f"sweep.max_epochs={epochs}"
        return ""

    def is_done(self, everywhere: bool = True) -> bool:
        """Whether no job is started any more, and none runs.

        Args:
            everywhere: also wait for jobs of other workers after which no other job can start.
        """
        if not self.exhausted() and self.trials(TrialState.WAITING):
            return False
        return not (everywhere and self.trials(TrialState.RUNNING))

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
        waiting = None if self.exhausted() else self._next()
        if waiting is None:
            return None
        distributions, number = suggest(self.study, waiting), waiting.number
        self.study._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING)  # `ask` takes the first one
        running = Trial(self.study, waiting._trial_id)
        for key, distribution in distributions.items():
            running._suggest(key, distribution)
        self.locks.hold(number)
        path = run_path(self.path, number)
        if path.is_dir() and not (path / "config.yaml").is_file():  # killed before it could be resumed
            shutil.rmtree(path)
        return self.trials()[number]

    def _next(self) -> FrozenTrial | None:
        """The job to start next."""
        if self.pruning is not None:
            return self.pruning.select(self.latest())
        waiting = self.trials(TrialState.WAITING)
        return waiting[0] if waiting else None

    def reconcile(self) -> None:
        """Conclude the jobs whose worker has ended without it. The caller holds the lock of the schedule."""
        for trial in self.trials(TrialState.RUNNING):
            if not self.locks.is_held(trial.number) and self.read_status(trial.number)["status"] != "running":
                self.conclude(trial.number, stopped=True)

    def report(self, numbers: Iterable[int]) -> list[int]:
        """Tell the study the new scores of running jobs; return those that its pruner stops."""
        changed = self.pruning.find_changed(numbers) if self.pruning is not None else []
        if self.pruning is None or not changed:
            return []
        with self.locks.schedule():
            trials = self.trials()
            return [number for number in changed if self.pruning.report(trials[number])]

    def conclude(self, number: int, stopped: bool = False, exit_code: int | None = None) -> FrozenTrial:
        """Tell the study what has become of a job whose process has ended; the caller holds the lock of the schedule.

        Args:
            stopped: the job was stopped together with its worker, so it waits and is resumed.
            exit_code: of the process, negative if a signal has killed it; None if another process had started it.
        """
        trial, status = self.trials()[number], self.read_status(number)
        if self.pruning is not None and self.pruning.conclude(trial, status["status"]):
            return self.trials()[number]
        values = self._read_values(number, status) if status["status"] == "finished" else {}
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if values and not wrong:
            self.study.tell(number, list(values.values()))
            output_path(self.path, number).unlink(missing_ok=True)
            return self.trials()[number]
        error, attempts = find_error(self.path, number, status, stopped, exit_code), trial.user_attrs.get("attempts", 0)
        if wrong:
            error = f"{wrong[0]} is {values[wrong[0]]}: expected a finite number"
        is_machine = error is not None and has_machine_stopped(error, exit_code)
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

    def _read_values(self, number: int, status: dict[str, Any]) -> dict[str, float]:
        """The objectives of a run; NaN for one that it does not have."""
        if self.settings.objectives:
            return read_values(RunDirectory(run_path(self.path, number)), self.settings.objectives)
        objective = status.get("objective") or {}
        return {objective.get("name", "the objective"): objective.get("value", math.nan)}

    def _set(self, trial: FrozenTrial, name: str, value: Any) -> None:
        self.study._storage.set_trial_user_attr(trial._trial_id, name, value)
