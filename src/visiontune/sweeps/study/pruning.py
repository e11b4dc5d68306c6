"""Prune the jobs of a sweep by the scores in their run directories."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from visiontune.config.space import REPEATS
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_json
from visiontune.sweeps.study.curves import Curve, find_best, read_curve
from visiontune.sweeps.study.entries import count_epochs
from visiontune.sweeps.study.halving import JobScores, decide
from visiontune.sweeps.study.paths import output_path, run_path
from visiontune.sweeps.study.pruner import Pruner

STOP = "pause_after"  # attribute of a trial: the number of epochs up to which it was started; None is the end
PRUNED = "pruned"  # attribute of a trial: the epoch after which a pruner of Optuna has stopped it


@dataclass(frozen=True)
class _History:
    """What metrics.csv says, and when it was written."""

    written: tuple[int, int] | None
    curve: Curve
    epochs: int


class Pruning:
    """Prunes jobs of one sweep. Except for `find_changed`, the caller holds the lock of the schedule."""

    def __init__(self, path: Path, study: Study, pruner: Pruner) -> None:
        self.pruner = pruner
        self._path = path
        self._study = study
        self._asynchronous = pruner.build()
        self._histories: dict[int, _History] = {}  # reading takes time
        self._paused: set[tuple[int, int]] = set()  # numbers of jobs, and after which epoch

    def select(self, trials: list[FrozenTrial]) -> FrozenTrial | None:
        """The next job to start, or None. With halving, jobs of a rung that is decided are pruned first.

        Args:
            trials: the last one of each job.
        """
        waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
        if self._asynchronous is not None:
            return waiting[0] if waiting else None
        decision = decide(map(self._read_scores, trials), self.pruner.rungs(), self.pruner.factor)
        pruned = set(decision.pruned)
        for trial in waiting:
            if trial.number in pruned:
                self.prune(trial)
        ready = [trial for trial in waiting if trial.number in decision.stops]
        if not ready:
            return None
        self._set(ready[0], STOP, decision.stops[ready[0].number])
        return ready[0]

    def find_changed(self, numbers: Iterable[int]) -> list[int]:
        """The running jobs with new scores, of which a pruner of Optuna wants to know."""
        if self._asynchronous is None:
            return []
        return [number for number in numbers if self._is_changed(number)]

    def report(self, trial: FrozenTrial) -> bool:
        """Report the new scores of a job to the study, each once; return whether the pruner stops the job.

        The score of an epoch is the best so far, which is the objective of a run that ends there. That of the weights
        before the first step is not reported alone.
        """
        if self._asynchronous is None or PRUNED in trial.user_attrs:
            return False
        curve, storage, sign = self._read(trial.number).curve, self._study._storage, self.pruner.sign
        for position, (epoch, _) in enumerate(curve):
            if epoch == 0 or epoch in trial.intermediate_values:
                continue
            _, best = find_best(curve[: position + 1], sign)
            storage.set_trial_intermediate_value(trial._trial_id, epoch, best)
            if epoch < self.pruner.max_epochs and self._asynchronous.prune(
                self._study, storage.get_trial(trial._trial_id)
            ):
                self._set(trial, PRUNED, epoch)
                return True
        return False

    def conclude(self, trial: FrozenTrial, status: str) -> bool:
        """Report the last scores of a job whose process has ended; return whether it is pruned.

        Args:
            status: of its run.
        """
        is_pruned = self.report(trial) or PRUNED in trial.user_attrs
        if is_pruned and status not in ("finished", "failed"):
            self.prune(trial)
            return True
        return False

    def prune(self, trial: FrozenTrial) -> None:
        """Record in the run and in the study that a job is pruned; its process has ended."""
        run, curve = RunDirectory(run_path(self._path, trial.number)), self._read(trial.number).curve
        before = run.read_status()
        status: dict[str, Any] = {"status": "pruned"} | {
            name: before[name] for name in ("started", "updated", "pid") if name in before
        }
        if curve:
            epoch, value = find_best(curve, self.pruner.sign)
            status["objective"] = {
                "name": self.pruner.monitor,
                "mode": self.pruner.mode,
                "value": value,
                "epoch": epoch,
            }
        write_json(run.status, status)
        values = [status["objective"]["value"]] if curve else None
        self._study._storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED, values)
        output_path(self._path, trial.number).unlink(missing_ok=True)

    def _read_scores(self, trial: FrozenTrial) -> JobScores:
        history, stop = self._read(trial.number), trial.user_attrs.get(STOP, 0)
        epochs = history.epochs
        if trial.state == TrialState.WAITING and epochs == stop > 0 and not self._has_paused(trial.number, stop):
            epochs -= 1
        repeats = [item for item in trial.user_attrs["overrides"] if _key(item) in REPEATS]
        return JobScores(
            number=trial.number,
            configuration=tuple(sorted(set(trial.user_attrs["overrides"]) - set(repeats))),
            repeat=tuple(sorted(repeats)),
            scores={epoch: self.pruner.sign * value for epoch, value in history.curve},
            epochs=epochs,
            state=trial.state,
            stop=math.inf if stop is None else stop,
        )

    def _has_paused(self, number: int, stop: int) -> bool:
        """Whether a job has stopped after its last epoch. One that was killed there may lack a checkpoint."""
        if (number, stop) not in self._paused:
            if RunDirectory(run_path(self._path, number)).read_status()["status"] != "interrupted":
                return False
            self._paused.add((number, stop))
        return True

    def _read(self, number: int) -> _History:
        if self._is_changed(number):
            run, written = RunDirectory(run_path(self._path, number)), self._written(number)
            curve = read_curve(run.history, self.pruner.monitor)
            self._histories[number] = _History(written, curve, count_epochs(run))
        return self._histories.get(number, _History(None, [], 0))

    def _is_changed(self, number: int) -> bool:
        written = self._written(number)
        return written is not None and (number not in self._histories or self._histories[number].written != written)

    def _written(self, number: int) -> tuple[int, int] | None:
        try:
            status = RunDirectory(run_path(self._path, number)).history.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    def _set(self, trial: FrozenTrial, name: str, value: object) -> None:
        self._study._storage.set_trial_user_attr(trial._trial_id, name, value)


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]
