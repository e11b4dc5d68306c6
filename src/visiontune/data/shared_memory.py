"""Shared memory, in which data-loader workers put their batches: check that there is enough, and explain errors."""

import os
import shutil
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from torch import Tensor

from visiontune.errors import RunError

FOLDER = Path("/dev/shm")  # Linux; other systems have no such limit
PREFETCH = 2  # batches that a worker prepares ahead: the default of DataLoader
ADVICE = "use data.num_workers=0, or a larger /dev/shm (docker run --shm-size=8g)"
# What torch and the kernel say about it.
SIGNS = ("Bus error", "out of shared memory", "file </torch_", "unable to mmap", "shared memory object </torch_")


def check_shared_memory(item: dict[str, Any], batch_size: int, num_workers: int) -> None:
    """Check that all batches that the workers prepare ahead fit.

    Args:
        item: of the dataset. Only its images are counted, which have the same size in all items.

    Raises:
        RunError: they do not; a worker would be killed by a bus error.
    """
    if not FOLDER.is_dir():
        return
    images = [item[key] for key in ("image", "original_image") if isinstance(item.get(key), Tensor)]
    needed = sum(image.nbytes for image in images) * batch_size * PREFETCH * num_workers
    free = free_bytes()
    if needed > free:
        raise RunError(
            f"{num_workers} data-loader workers with batches of {batch_size} need {needed / 1e6:.1f} MB of shared "
            f"memory, but {FOLDER} has {free / 1e6:.1f} MB free: {ADVICE}"
        )


def free_bytes() -> int:
    """Free shared memory."""
    return shutil.disk_usage(FOLDER).free


def end_worker_without_memory() -> None:
    """Let a data-loader worker end when it cannot write a batch: it would lose the batch, and training would hang.

    It is called in each worker. Python's queue writes batches in a thread, and only prints its errors.
    """

    def end(error: Exception, batch: Any) -> None:
        if any(sign in str(error) for sign in SIGNS):
            os.kill(os.getpid(), signal.SIGBUS)  # as the kernel does when memory is missing later
        else:
            traceback.print_exception(error)

    Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]


@contextmanager
def shared_memory_errors() -> Iterator[None]:
    """Turn the errors of data-loader workers without shared memory into a RunError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if any(sign in str(error) for sign in SIGNS):
            raise RunError(f"the data-loader workers have too little shared memory: {ADVICE}") from error
        raise
