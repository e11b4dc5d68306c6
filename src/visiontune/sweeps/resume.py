"""Resume a sweep, or help a running one."""

from pathlib import Path

from optuna.trial import TrialState

from visiontune.errors import UserError, some
from visiontune.runs.directory import RunDirectory
from visiontune.runs.environment import changed_code
from visiontune.runs.log import announce
from visiontune.sweeps.study.paths import run_path
from visiontune.sweeps.study.sweep import Sweep
from visiontune.sweeps.work import work
from visiontune.sweeps.workers.job_process import Train


def resume(folder: Path, workers: int | None, allow_changed: bool, keep_failed: bool, train: Train) -> None:
    """Run the jobs of a sweep that wait, were interrupted, or have failed.

    Args:
        workers: number of jobs at the same time; None is that of the sweep.
        allow_changed: see `check_code`.
        keep_failed: do not run failed jobs again, as a worker that a launcher has started.
        train: trains or resumes the run of a config.

    Raises:
        UserError: `folder` is no sweep, or the code has changed.
        RunError: a job has failed.
        Interrupted: a signal has stopped the jobs.
    """
    sweep = Sweep(folder)
    with sweep.locks.schedule():
        if not allow_changed:
            check_code(sweep)
        failed = 0 if keep_failed else sweep.requeue_failed()
    waiting = len(sweep.trials(TrialState.WAITING, TrialState.RUNNING))
    announce(f"{waiting} of {len(sweep.latest())} jobs are not done, {failed} of them have failed before")
    work(sweep, workers or max(1, sweep.settings.workers), train, until_all=False)


def check_code(sweep: Sweep) -> None:
    """Refuse to resume interrupted runs with other code than they began with.

    Raises:
        UserError: the message names the runs and what has changed.
    """
    changed = []
    for trial in sweep.trials(TrialState.WAITING, TrialState.RUNNING):
        path = run_path(sweep.path, trial.number)
        if (path / "config.yaml").is_file() and not sweep.locks.is_held(trial.number):
            before = RunDirectory.open(path).read_environment()
            if difference := changed_code(before):
                changed.append(f"{path.name} ({difference})")
    if changed:
        raise UserError(
            f"the code has changed since these jobs were interrupted: {some(changed)}. Restore it, or resume them with "
            "the code of now: sweep.allow_changed=true, or visiontune work DIR --allow-changed"
        )
