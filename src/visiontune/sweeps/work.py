"""Work on a sweep: run its jobs on this machine, and keep its table current."""

import shlex

from optuna.trial import TrialState

from visiontune.errors import RunError, listed, pluralize
from visiontune.runs.log import announce
from visiontune.signals import Interrupted
from visiontune.sweeps.study.sweep import Sweep
from visiontune.sweeps.workers.job_process import Train
from visiontune.sweeps.workers.progress import Progress
from visiontune.sweeps.workers.slots import build_slots, visible_gpus
from visiontune.sweeps.workers.worker import Worker, run_here


def work(sweep: Sweep, workers: int, train: Train, until_all: bool) -> None:
    """Run the jobs of a sweep that wait, then print its table.

    Args:
        workers: number of jobs at the same time; 0 runs them in this process.
        train: trains or resumes the run of a config.
        until_all: wait for the jobs of other workers as well.

    Raises:
        RunError: a job of the sweep has failed, or waits.
        Interrupted: a signal has stopped the jobs, which can be resumed.
    """
    settings = sweep.settings
    try:
        progress = Progress(sweep, max(1, workers))
        if workers:
            gpus = visible_gpus() if settings.accelerator != "cpu" else []
            slots = build_slots(workers, settings.threads, settings.devices, gpus)
            with progress.live_table():
                Worker(sweep, slots, train, progress).run(until_all)
        else:
            run_here(sweep, train, progress)
    except Interrupted:
        announce(f"the sweep was stopped; resume it with: visiontune work {sweep.path}")
        raise
    report(sweep)


def report(sweep: Sweep) -> None:
    """Print the table of a sweep whose workers have ended.

    Raises:
        RunError: a job of the sweep has failed, or waits.
    """
    from visiontune.sweeps.comparison.compare import compare  # its imports take time, and come after the jobs

    compare([sweep.path])
    check_done(sweep)


def check_done(sweep: Sweep) -> None:
    """Raise a RunError with the jobs that have failed, and the number of those that wait, if there are any."""
    failed = [trial for trial in sweep.latest() if trial.state == TrialState.FAIL]
    waiting = len(sweep.trials(TrialState.WAITING))
    problems, limit = [], sweep.exhausted()
    if failed:
        lines = [f"{trial.number:03d}: {trial.user_attrs['error']}" for trial in failed]
        problems.append(f"{pluralize(len(failed), 'job has', 'jobs have')} failed:{listed(lines)}")
    if waiting:
        reason = f" after {limit}" if limit else ""
        problems.append(f"{pluralize(waiting, 'job waits', 'jobs wait')}{reason}")
    if problems:
        command = f"visiontune work {shlex.quote(str(sweep.path))}"
        if limit.startswith("sweep.max_epochs"):
            command = "the same command, and a larger sweep.max_epochs"
        raise RunError("\n".join([*problems, f"Run them with: {command}"]))
