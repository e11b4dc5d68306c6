"""The process of one job: a fork of a server that has imported everything."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from visiontune import signals
from visiontune.config.compose import initialized
from visiontune.config.messages import describe_error, raise_interruption
from visiontune.errors import visible
from visiontune.runs.processes import end_with
from visiontune.sweeps.study.paths import ERROR, output_path, run_path
from visiontune.sweeps.study.settings import Settings
from visiontune.sweeps.workers.slots import Slot

Train = Callable[[DictConfig], float]


def run_in_process(
    train: Train, sweep: Path, number: int, overrides: list[str], pause_after: int | None, slot: Slot
) -> None:
    """Be the process of a job: end with the worker, use the cores of `slot`, and print into a file."""
    end_with(os.getppid())  # the fork server
    worker = multiprocessing.parent_process()
    assert worker is not None
    threading.Thread(target=_end_with_worker, args=(worker.sentinel,), daemon=True).start()
    slot.use()
    multiprocessing.set_start_method("fork", force=True)  # for data-loader workers; a server would start for each
    with output_path(sweep, number).open("a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(run(train, sweep, number, overrides, pause_after))


def _end_with_worker(sentinel: int) -> None:
    """End the process when its worker has ended, even by SIGKILL; the fork server may live longer."""
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def run(train: Train, sweep: Path, number: int, overrides: list[str], pause_after: int | None) -> int:
    """Train or resume a job; return the exit code of a command. The message of an error goes to the job's file."""
    try:
        with signals.listen():
            try:
                train_job(train, sweep, number, overrides, pause_after)
            except Exception as error:
                raise_interruption(error)
                raise
    except signals.Interrupted as interruption:
        return interruption.exit_code
    except Exception as error:
        if "debug=traceback" in overrides:
            traceback.print_exc()
        message, code = describe_error(error, "train", overrides)
        with output_path(sweep, number).open("a") as file:
            file.write(f"{ERROR}{visible(message, 20_000)}\n")
        return code
    return 0


def train_job(train: Train, sweep: Path, number: int, overrides: list[str], pause_after: int | None) -> None:
    """Train the run of a job, or resume it in its directory.

    Args:
        pause_after: number of epochs; None trains to the end.
    """
    settings, path = Settings.read(sweep), run_path(sweep, number)
    os.chdir(settings.working_directory)
    if (path / "config.yaml").is_file():
        pause = f"checkpoints.pause_after={'null' if pause_after is None else pause_after}"
        arguments = [f"run={path}", pause, *(override for override in overrides if override == "trust=true")]
    else:
        arguments = [*overrides, f"sweep_dir={sweep}", f"hydra.job.num={number}"]
    with initialized(Path(settings.config_dir) if settings.config_dir else None):
        cfg = compose("train", overrides=[*arguments, "hydra.mode=MULTIRUN"], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        if pause_after is not None:  # no override, which tables would show
            cfg.checkpoints.pause_after = pause_after
        train(cfg)
