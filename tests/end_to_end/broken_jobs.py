"""A callback for the jobs of a sweep, which fail in three ways until they are mended."""

import os
import resource
import signal
from pathlib import Path

import lightning as L


class Break(L.Callback):
    """With seed 1 it raises an error, with seed 2 the process is killed, and with seed 3 it has too little memory."""

    def __init__(self, mended: str) -> None:
        """Args:
        mended: a file; if it exists, nothing fails.
        """
        self.mended = Path(mended)

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if self.mended.exists():
            return
        seed = int(os.environ["PL_GLOBAL_SEED"])
        if seed == 1:
            raise RuntimeError("the loss is odd")
        if seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == 3:
            resource.setrlimit(resource.RLIMIT_AS, (2**32, resource.getrlimit(resource.RLIMIT_AS)[1]))
            bytearray(2**40)
