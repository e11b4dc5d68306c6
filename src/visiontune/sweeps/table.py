"""The table of a sweep: written when a job ends, and printed when the last one has finished."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from visiontune.runs.log import log, logging_to, warn_on_failure
from visiontune.signals import Interrupted


class SweepTable(Callback):
    """Prints the table of a sweep. Hydra calls it in the process that launched the sweep, with any launcher."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        # Hydra builds this object for every verb, and this import takes time.
        from visiontune.sweeps.comparison import compare

        compare([Path(config.sweep_dir)])


@contextmanager
def current_table(folder: Path) -> Iterator[None]:
    """Write sweep.csv in the directory of a sweep when the job in the block ends: finished, failed or stopped."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        _write(folder)
        with logging_to(None):
            log.info(f"the sweep was stopped; its table: {folder / 'sweep.csv'}")
        raise
    except BaseException:
        _write(folder)
        raise
    _write(folder)


def _write(folder: Path) -> None:
    if not any(folder.glob("*/config.yaml")):  # the first job has not begun
        return
    from visiontune.sweeps.comparison import find_runs, write_table

    with logging_to(None), warn_on_failure(f"{folder / 'sweep.csv'} is not current"), _locked(folder):
        write_table(find_runs([folder]), folder / "sweep.csv")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let jobs that end at the same time write one after the other."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
