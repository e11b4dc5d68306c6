"""Work on a sweep: run its jobs on this machine, and keep its table current."""

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
        RunError: a job of the sweep has failed.
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
    if sweep.is_over() and (waiting := sweep.trials(TrialState.WAITING)):
        jobs = pluralize(len(waiting), "job waits", "jobs wait")
        announce(f"sweep.max_hours={settings.max_hours} is over: {jobs}; run with: visiontune work {sweep.path}")
    from visiontune.sweeps.comparison.compare import compare  # its imports take time, and come after the jobs

    compare([sweep.path])
    failed = [trial for trial in sweep.latest() if trial.state == TrialState.FAIL]
    if failed:
        lines = [f"{trial.number:03d}: {trial.user_attrs['error']}" for trial in failed]
        raise RunError(
            f"{pluralize(len(failed), 'job has', 'jobs have')} failed:{listed(lines)}\n"
            f"Run them again with: visiontune work {sweep.path}"
        )
