"""One process a device."""

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import torch

from visiontune.loggers import open_loggers
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import logging_to
from visiontune.training.fit import fit, prepare


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
        with ExitStack() as stack:
            loggers = stack.enter_context(open_loggers(cfg, run.path)) if rank == 0 else []
            fit(cfg, run, data, model, checkpoint, loggers)
