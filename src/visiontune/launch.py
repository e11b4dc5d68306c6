"""One process a device."""

import os
import socket
from pathlib import Path

import torch
from omegaconf import DictConfig

from visiontune.errors import UserError
from visiontune.fitting import fit, prepare
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import logging_to


def processes(cfg: DictConfig) -> int:
    """How many processes the trainer's devices ask for.

    Raises:
        UserError: no number, more than there are, or several devices without a strategy that uses them.
    """
    devices, gpus = cfg.trainer.devices, torch.cuda.device_count()
    if not isinstance(devices, int) or isinstance(devices, bool) or not (devices >= 1 or devices == -1):
        raise UserError(
            f"trainer.devices={devices}: write a number of processes, such as trainer.devices=2 (-1: all GPUs)"
        )
    if cfg.trainer.accelerator == "gpu" and (devices > gpus or not gpus):
        raise UserError(f"trainer.devices={devices} on gpu, but this machine has {gpus}: write trainer=cpu, or fewer")
    devices = max(1, gpus) if devices == -1 else devices
    if devices > 1 and cfg.trainer.strategy == "auto":
        raise UserError(f"trainer.devices={devices} needs trainer=ddp (GPUs) or trainer=ddp_cpu")
    return devices


def launch(run: RunDirectory, count: int, checkpoint: Path | None) -> None:
    """Fit `run` in `count` processes and wait; when one fails the others are stopped and its error is raised.

    Started here and not by Lightning, which would run this command line again, a sweep with all of its jobs.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_work, (count, port, run.path, checkpoint), nprocs=count)


def _work(rank: int, count: int, port: int, path: Path, checkpoint: Path | None) -> None:
    os.environ |= {  # what Lightning reads in a process that somebody else started
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    run = RunDirectory.open(path)
    with logging_to(run.log if rank == 0 else None, quiet=rank > 0):
        cfg = run.read_config()
        data, model, _ = prepare(cfg, load=checkpoint is None)
        data.assign_as(run.splits)
        fit(cfg, run, data, model, checkpoint)
