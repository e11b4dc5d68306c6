"""Run a sweep on a Slurm cluster."""

import math
import shutil
import subprocess
import time
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig

from visiontune.errors import UserError, first_line
from visiontune.sweeps.launchers.cluster import Cluster
from visiontune.sweeps.launchers.worker_command import WorkerCommand
from visiontune.sweeps.study.sweep import Sweep

SIGNAL_SECONDS = 120  # before the time limit, for checkpoints
QUERY_SECONDS = 10.0  # between two questions to the controller of the cluster
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
        self._count = 0  # of the workers that are queued or run
        self._next_query = 0.0
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
        except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError, OSError) as error:
            raise UserError(f"sbatch does not accept the workers: {first_line(error)}") from error
        self._jobs, self._count = jobs, len(jobs)
        return [job.job_id for job in jobs]

    def count_workers(self) -> int:
        if self.cluster == "local":
            return sum(not job.done() for job in self._jobs)
        if self._jobs and time.monotonic() > self._next_query:
            command = ["squeue", "--noheader", "--array", "--format=%T", f"--jobs={self._array}"]
            queue = subprocess.run(command, capture_output=True, text=True)  # submitit's sacct needs a database
            if queue.returncode == 0 or "Invalid job id" in queue.stderr:  # not while the controller is away
                self._count = len(queue.stdout.split())
            self._next_query = time.monotonic() + QUERY_SECONDS
        return self._count

    def cancel(self) -> None:
        if self.count_workers():
            if self.cluster == "local":
                for job in self._jobs:
                    job.cancel()
            else:
                subprocess.run(["scancel", self._array])
            self._next_query = 0.0
        self._wait()

    @property
    def _array(self) -> str:
        """The number of the job array."""
        return str(self._jobs[0].job_id).partition("_")[0]
