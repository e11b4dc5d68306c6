"""Run a sweep on this machine."""

from omegaconf import DictConfig

from visiontune.errors import UserError
from visiontune.sweeps.launchers.launcher import Launcher
from visiontune.sweeps.study.sweep import Sweep
from visiontune.sweeps.work import work
from visiontune.sweeps.workers.job_process import Train
from visiontune.sweeps.workers.slots import count_threads, count_workers, visible_gpus
from visiontune.sweeps.workers.worker import preload


class Local(Launcher):
    """The command is the worker."""

    def prepare(self, cfg: DictConfig) -> None:
        if cfg.sweep.submit:
            raise UserError("sweep.submit=true needs a queue: write launcher=slurm")
        if cfg.sweep.workers:
            preload()

    def share(self, options: DictConfig, trainer: DictConfig, jobs: int) -> tuple[int, int]:
        workers = options.workers
        if workers == "auto":
            gpus = visible_gpus() if trainer.accelerator != "cpu" else []
            workers = count_workers(jobs, trainer.devices, gpus)
        return workers, count_threads(workers) if options.threads == "auto" else options.threads

    def launch(self, sweep: Sweep, options: DictConfig, train: Train) -> None:
        work(sweep, sweep.settings.workers, train, until_all=True)
