"""Run a sweep on a Slurm cluster."""

import math
import shutil
from importlib.util import find_spec
from subprocess import CalledProcessError
from typing import Any

from omegaconf import DictConfig

from visiontune.errors import UserError, first_line
from visiontune.sweeps.launchers.cluster import Cluster
from visiontune.sweeps.launchers.worker_command import WorkerCommand
from visiontune.sweeps.study.sweep import Sweep

SIGNAL_SECONDS = 120  # before the time limit, for checkpoints
TIME_LIMITS = 1000  # how often a worker is queued again; it ends when no job waits


class Slurm(Cluster):
    """Submits a job array of workers with submitit."""

    name = "slurm"

    def __init__(
        self,
        workers: int,
        cpus: int,
        gpus: int | str,
        memory_gb: float | None,
        hours: float,
        partition: str | None,
        options: dict[str, Any] | None,
        setup: list[str],
        cluster: str,
    ) -> None:
        """Args:
        hours: time limit of a worker.
        options: more options of `sbatch`.
        setup: shell commands before a worker starts.
        cluster: `slurm`, or `local` for processes of this machine.
        """
        super().__init__(workers, cpus, gpus, memory_gb)
        self.cluster = cluster
        self._jobs: list[Any] = []
        self._parameters = {
            "timeout_min": math.ceil(60 * hours),
            "cpus_per_task": cpus,
            "mem_gb": memory_gb,
            "slurm_partition": partition,
            "slurm_additional_parameters": options,
            "slurm_signal_delay_s": SIGNAL_SECONDS,
            f"{cluster}_setup": setup or None,
        }

    def prepare(self, cfg: DictConfig) -> None:
        super().prepare(cfg)
        if find_spec("submitit") is None:
            raise UserError("launcher=slurm needs submitit, an extra of this package: pip install 'visiontune[slurm]'")
        missing = [program for program in ("sbatch", "srun") if shutil.which(program) is None]
        if missing and self.cluster == "slurm":
            raise UserError(
                f"launcher=slurm: there is no {missing[0]} on the PATH: start the command on a machine of the cluster "
                "that submits jobs, or try it on this one with launcher.cluster=local"
            )

    def submit(self, sweep: Sweep, commands: list[WorkerCommand]) -> list[str]:
        import submitit

        executor = submitit.AutoExecutor(
            sweep.path / self.name, cluster=self.cluster, slurm_max_num_timeout=TIME_LIMITS
        )
        parameters = {
            **self._parameters,
            "name": f"visiontune_{sweep.path.name}",
            "gpus_per_node": self.count_gpus(sweep.settings) or None,
        }
        executor.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
        try:
            with executor.batch():
                jobs = [executor.submit(command) for command in commands]
        except (submitit.core.utils.FailedJobError, CalledProcessError, OSError) as error:
            raise UserError(f"sbatch does not accept the workers: {first_line(error)}") from error
        self._jobs = jobs
        return [job.job_id for job in jobs]

    def count_workers(self) -> int:
        return sum(not job.done() for job in self._jobs)

    def cancel(self) -> None:
        for job in self._jobs:
            if not job.done():
                job.cancel(check=False)
        self._wait()
