"""Run a sweep on a Ray cluster."""

import logging
import os
import signal
import socket
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig

from visiontune.errors import UserError, first_line
from visiontune.sweeps.launchers.cluster import Cluster
from visiontune.sweeps.launchers.worker_command import WorkerCommand, run_worker
from visiontune.sweeps.study.sweep import Sweep

CONNECT_SECONDS = 5.0


class Ray(Cluster):
    """Starts each worker as a Ray task."""

    name = "ray"

    def __init__(self, address: str, workers: int, cpus: int, gpus: int | str, memory_gb: float | None) -> None:
        """Args:
        address: of the cluster; `local` starts one on this machine, `auto` is the one that runs there.
        """
        super().__init__(workers, cpus, gpus, memory_gb)
        self.address = address
        self._tasks: list[Any] = []

    def prepare(self, cfg: DictConfig) -> None:
        super().prepare(cfg)
        if cfg.sweep.submit:
            raise UserError("sweep.submit=true needs a queue: write launcher=slurm")
        if find_spec("ray") is None:
            raise UserError("launcher=ray needs ray, an extra of this package: pip install 'visiontune[ray]'")
        if self.address not in ("local", "auto"):
            self._check_address()

    def submit(self, sweep: Sweep, commands: list[WorkerCommand]) -> list[str]:
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        local: dict[str, Any] = (
            {"include_dashboard": False, "object_store_memory": 100 * 2**20} if self.address == "local" else {}
        )
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.WARNING, **local)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"launcher.address={self.address}: there is no Ray cluster: {first_line(error)}") from error
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray replaces it
        gpus = self.count_gpus(sweep.settings)
        if self.gpus == "auto" and sweep.settings.accelerator == "auto" and "GPU" not in ray.cluster_resources():
            gpus = 0
        self._check_resources(ray, gpus)
        task = ray.remote(num_cpus=self.cpus, num_gpus=gpus, memory=int((self.memory_gb or 0) * 2**30))(run_worker)
        self._tasks = [task.remote(command) for command in commands]
        return [ref.task_id().hex()[:8] for ref in self._tasks]

    def count_workers(self) -> int:
        import ray

        if not self._tasks:
            return 0
        _, running = ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        return len(running)

    def cancel(self) -> None:
        import ray

        for ref in self._tasks:
            ray.cancel(ref)
        self._wait()
        ray.shutdown()

    def _check_address(self) -> None:
        """Refuse an address where nothing answers; Ray would try for minutes.

        Raises:
            UserError: there is no server.
        """
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            raise UserError(
                f"launcher.address={self.address}: no Ray cluster answers ({first_line(error)}); write local, auto or "
                "HOST:PORT"
            ) from error

    def _check_resources(self, ray: Any, gpus: int) -> None:
        """Refuse workers for which a cluster of this machine is too small. Others may grow.

        Raises:
            UserError: the machine has fewer cores or GPUs.
        """
        for key, count, resource in (("cpus", self.cpus, "CPU"), ("gpus", gpus, "GPU")):
            most = int(ray.cluster_resources().get(resource, 0))
            if self.address == "local" and count > most:
                ray.shutdown()
                raise UserError(f"launcher.{key}={count}: expected at most {most}, those of this machine")
