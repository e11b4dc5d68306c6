"""What a machine gives to each job that runs at the same time as others: cores, threads and GPUs."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from visiontune.cores import usable_cores
from visiontune.errors import UserError

MEMORY_GB = 2.0  # of a job on the CPU: torch and a small network


@dataclass(frozen=True)
class Slot:
    """The share of one job.

    Attributes:
        cores: the numbers of its cores; empty if the system cannot pin a process.
        gpus: its GPUs, as in CUDA_VISIBLE_DEVICES.
        threads: CPU threads of PyTorch, divided among the ranks.
    """

    cores: tuple[int, ...]
    gpus: tuple[str, ...]
    threads: int

    def use(self) -> None:
        """Limit this process to the slot, before it uses CUDA."""
        if self.cores:
            os.sched_setaffinity(0, self.cores)
        if self.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        os.environ["OMP_NUM_THREADS"] = str(self.threads)  # for ranks, which are new processes
        torch.set_num_threads(self.threads)


def count_threads(workers: int) -> int:
    """The threads of each job: the cores divided among the jobs."""
    return max(1, len(usable_core_numbers()) // max(1, workers))


def build_slots(workers: int, threads: int, devices: int, gpus: list[str]) -> list[Slot]:
    """Share this machine among `workers` jobs.

    Args:
        devices: number of GPUs of each job, if there are GPUs.
    """
    cores = usable_core_numbers()
    slots = []
    for i in range(workers):
        share = cores[i * len(cores) // workers : (i + 1) * len(cores) // workers] or cores[i % len(cores) :][:1]
        own_gpus = tuple(gpus[(i * devices + k) % len(gpus)] for k in range(devices)) if gpus else ()
        slots.append(Slot(tuple(share) if hasattr(os, "sched_setaffinity") else (), own_gpus, threads))
    return slots


def usable_core_numbers() -> list[int]:
    """The cores that this process may use, no more than its control groups allow."""
    count = usable_cores()
    return sorted(os.sched_getaffinity(0))[:count] if hasattr(os, "sched_getaffinity") else list(range(count))


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return names.split(",")[:count] if names else [str(i) for i in range(count)]


def available_gb(meminfo: Path = Path("/proc/meminfo")) -> float:
    """The memory that new processes may use; infinite if the system does not tell."""
    try:
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) / 2**20
    except (OSError, ValueError, KeyError):
        return math.inf


def count_workers(jobs: int, devices: int, gpus: list[str]) -> int:
    """The number of jobs that run at the same time: as many as GPUs or, without GPUs, cores and memory allow.

    Args:
        jobs: that wait.
        devices: ranks of each job.

    Raises:
        UserError: a job needs more GPUs than the machine has.
    """
    if gpus:
        if devices > len(gpus):
            raise UserError(f"trainer.devices={devices}: expected at most {len(gpus)}, the GPUs of this machine")
        limit = len(gpus) // devices
    else:
        limit = int(min(len(usable_core_numbers()), available_gb() / MEMORY_GB) / devices)
    return max(1, min(jobs, limit))
