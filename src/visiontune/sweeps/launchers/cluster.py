"""What the launchers of clusters share: they start workers elsewhere, and watch the sweep until it is done."""

import math
import time
from abc import abstractmethod

from omegaconf import DictConfig
from optuna.trial import TrialState

from visiontune.errors import UserError, pluralize, some
from visiontune.runs.log import announce
from visiontune.signals import Interrupted
from visiontune.sweeps.launchers.launcher import Launcher
from visiontune.sweeps.launchers.worker_command import WorkerCommand
from visiontune.sweeps.study.settings import Settings
from visiontune.sweeps.study.sweep import Sweep
from visiontune.sweeps.work import report
from visiontune.sweeps.workers.job_process import Train
from visiontune.sweeps.workers.progress import Progress

POLL_SECONDS = 1.0
END_SECONDS = 30.0  # in which a worker ends after the last job; then it is cancelled, since it may be queued for hours


class Cluster(Launcher):
    """Starts workers as tasks of a cluster, whose machines see the directory of the sweep."""

    name: str  # of the option of `launcher`, and of the folder with the output of its workers
    is_remote = True

    def __init__(self, workers: int, cpus: int, gpus: int | str, memory_gb: float | None) -> None:
        """Args:
        workers: their number, at most one for each job.
        cpus: of each worker, as all below.
        gpus: their number, or `auto`: one for each rank, none with `trainer=cpu`.
        memory_gb: None leaves it to the cluster.
        """
        self.workers = workers
        self.cpus = cpus
        self.gpus = gpus
        self.memory_gb = memory_gb

    @abstractmethod
    def submit(self, sweep: Sweep, commands: list[WorkerCommand]) -> list[str]:
        """Start a worker for each command; return their names in the cluster.

        Raises:
            UserError: the cluster refuses them.
        """

    @abstractmethod
    def count_workers(self) -> int:
        """The number of workers that are queued or run."""

    @abstractmethod
    def cancel(self) -> None:
        """Stop the workers that are left; their jobs write a checkpoint."""

    def prepare(self, cfg: DictConfig) -> None:
        if cfg.sweep.workers == 0:
            raise UserError(f"sweep.workers=0 runs the jobs in this process: launcher={self.name} needs 1 or more")
        if cfg.trainer.devices == -1:
            raise UserError(f"trainer.devices=-1: launcher={self.name} needs a number; write trainer.devices=2")

    def share(self, options: DictConfig, trainer: DictConfig, jobs: int) -> tuple[int, int]:
        workers = 1 if options.workers == "auto" else options.workers
        needed = workers * trainer.devices
        if trainer.accelerator == "gpu" and self.gpus != "auto" and int(self.gpus) < needed:
            raise UserError(f"launcher.gpus={self.gpus}: the jobs of a worker need {needed}; write launcher.gpus=auto")
        return workers, max(1, self.cpus // workers) if options.threads == "auto" else options.threads

    def count_gpus(self, settings: Settings) -> int:
        """The GPUs of each worker."""
        if self.gpus != "auto":
            return int(self.gpus)
        return 0 if settings.accelerator == "cpu" else settings.workers * settings.devices

    def launch(self, sweep: Sweep, options: DictConfig, train: Train) -> None:
        settings, output = sweep.settings, sweep.path / self.name
        jobs = len(sweep.trials(TrialState.WAITING, TrialState.RUNNING))
        workers = min(self.workers, math.ceil(jobs / settings.workers))
        values = (sweep.path, settings.workers, settings.threads, settings.working_directory, options.allow_changed)
        commands = [WorkerCommand(*values, output / f"worker_{i}.txt") for i in range(workers)]
        output.mkdir(exist_ok=True)
        try:
            if commands:
                names = self.submit(sweep, commands)
                announce(f"{pluralize(workers, 'worker', 'workers')} ({some(names)}), with their output in {output}")
            if options.submit:
                announce(f"see the results with: visiontune compare {sweep.path}")
                return
            self._watch(sweep, workers)
            if sweep.is_done():
                self._wait()
        except Interrupted:
            announce(f"the sweep was stopped; resume it with the same command, or here: visiontune work {sweep.path}")
            raise
        finally:
            if not options.submit:
                self.cancel()
        with sweep.locks.schedule():
            sweep.reconcile()
        if not sweep.is_done():
            for command in commands:
                announce(command.describe_end())
        report(sweep)

    def _wait(self) -> None:
        """Wait until the workers have ended, at most END_SECONDS."""
        end = time.monotonic() + END_SECONDS
        while self.count_workers() and time.monotonic() < end:
            time.sleep(POLL_SECONDS)

    def _watch(self, sweep: Sweep, workers: int) -> None:
        """Show what the workers do until the sweep is done, they have ended, or a job fails with `fail_fast`."""
        progress = Progress(sweep, workers * sweep.settings.workers)
        states = {trial.number: trial.state for trial in sweep.trials()}
        with progress.live_table():
            while True:
                has_workers = self.count_workers() > 0  # before `trials`, so that the last job is shown
                trials = sweep.trials()
                for trial in trials:
                    if trial.state != states.get(trial.number, TrialState.WAITING):
                        show = progress.started if trial.state == TrialState.RUNNING else progress.ended
                        show(trial)
                    states[trial.number] = trial.state
                progress.update()
                has_failed = any(trial.state == TrialState.FAIL for trial in sweep.latest())
                if not has_workers or sweep.is_done() or (has_failed and sweep.settings.fail_fast):
                    return
                time.sleep(POLL_SECONDS)
