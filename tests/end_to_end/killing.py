"""`visiontune` that is killed at a moment: python killing.py MOMENT NUMBER train ... (or compress ...)

The process gets SIGKILL, nothing less, as the moment comes for the NUMBER-th time.
"""

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from visiontune import cli, compress
from visiontune.analysis import results
from visiontune.callbacks import History, ProbeInitialization
from visiontune.compression.quantization import Network
from visiontune.models.finetuner import FineTuner


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, number: int, counts: Callable[..., bool] = lambda *_: True) -> None:
    whole, left = getattr(owner, name), [number]

    def hook(*arguments: Any, **more: Any) -> Any:
        left[0] -= counts(*arguments)
        if left[0] == 0:
            die()
        return whole(*arguments, **more)

    setattr(owner, name, hook)


def after(owner: Any, name: str, number: int) -> None:
    whole, left = getattr(owner, name), [number]

    def hook(*arguments: Any, **more: Any) -> Any:
        result = whole(*arguments, **more)
        left[0] -= 1
        if left[0] == 0:
            die()
        return result

    setattr(owner, name, hook)


def half_saved(number: int) -> None:
    whole, left = torch.save, [number]

    def hook(value: Any, file: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            content = io.BytesIO()
            whole(value, content)
            file.write(content.getvalue()[: content.tell() // 2])
            file.flush()
            die()
        whole(value, file)

    torch.save = hook


MOMENTS: dict[str, Callable[[int], None]] = {
    "probe": lambda number: before(ProbeInitialization, "_fit", number),
    "epoch": lambda number: after(FineTuner, "on_train_epoch_start", number),  # a stage has unfrozen
    "batch": lambda number: before(FineTuner, "on_train_batch_start", number),
    "backward": lambda number: before(FineTuner, "on_after_backward", number),  # gradients, and no step yet
    "step": lambda number: after(FineTuner, "optimizer_step", number),  # and no average yet
    "validation": lambda number: after(FineTuner, "validation_step", number),
    "row": lambda number: after(History, "_row", number),  # of metrics.csv
    "saving": half_saved,
    "renaming": lambda number: before(Path, "replace", number, lambda path, _: path.name == "next.ckpt"),
    "quantized": lambda number: before(Network, "quantized", number),
    "table": lambda number: before(compress, "measure", number),
    "report": lambda number: before(results, "write_page", number),
}

if __name__ == "__main__":
    _, moment, count, *arguments = sys.argv
    MOMENTS[moment](int(count))
    sys.argv = ["visiontune", *arguments]
    cli.main()
