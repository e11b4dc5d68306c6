"""Fit with several ranks, one process each."""

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import torch
from torch.multiprocessing import ProcessRaisedException

from visiontune.errors import RunError
from visiontune.loggers import open_loggers
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import logging_to
from visiontune.training.build import build_data, build_trainer
from visiontune.training.fit import build_model, fit, seed_everything


def fit_ranks(run: RunDirectory, ranks: int, checkpoint: Path | None) -> None:
    """Fit `run` in one process per rank and wait.

    Each rank builds its objects from `config.yaml`. Lightning's launchers would train the same weights, but:

    - `ddp` starts the command line again for each rank, in a sweep with all of its jobs.
    - `ddp_fork` hangs if the parent process has used OpenMP with two or more threads, and Lightning refuses it if the
      parent has used CUDA, which every job of a sweep does when it evaluates.
    - `ddp_spawn` pickles the Trainer, which fails with an open TensorBoard logger.

    Raises:
        RunError: a rank failed; the others are stopped. The cause holds its traceback.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        torch.multiprocessing.spawn(_fit_rank, (ranks, port, run.path, checkpoint), nprocs=ranks)
    except ProcessRaisedException as error:
        message = str(error).strip().splitlines()[-1]
        raise RunError(f"rank {error.error_index} failed: {message} (debug=true shows where)") from error


def _fit_rank(rank: int, ranks: int, port: int, path: Path, checkpoint: Path | None) -> None:
    os.environ |= {  # what Lightning reads in a process that it did not start
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() // ranks))
    run = RunDirectory.open(path)
    with logging_to(run.log if rank == 0 else None, quiet=rank > 0):
        cfg = run.read_config()
        seed_everything(cfg.seed)
        data = build_data(cfg)
        data.assign_as(run.splits)
        model, _ = build_model(cfg, data, load=checkpoint is None)
        with ExitStack() as stack:
            loggers = stack.enter_context(open_loggers(cfg, run.path)) if rank == 0 else []
            fit(cfg, run, build_trainer(cfg, run, model, loggers), model, data, checkpoint)
