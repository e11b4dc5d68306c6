"""Moments at which killing.py kills the process, each when it occurs for the NUMBER-th time."""

import io
import os
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from visiontune.analysis import results
from visiontune.callbacks import History, ProbeInitialization
from visiontune.models.finetuner import FineTuner


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_before(owner: Any, name: str, number: int, counts: Callable[..., bool] = lambda *_: True) -> None:
    original, remaining = getattr(owner, name), [number]

    def hook(*arguments: Any, **more: Any) -> Any:
        remaining[0] -= counts(*arguments)
        if remaining[0] == 0:
            kill()
        return original(*arguments, **more)

    setattr(owner, name, hook)


def kill_after(owner: Any, name: str, number: int) -> None:
    original, remaining = getattr(owner, name), [number]

    def hook(*arguments: Any, **more: Any) -> Any:
        result = original(*arguments, **more)
        remaining[0] -= 1
        if remaining[0] == 0:
            kill()
        return result

    setattr(owner, name, hook)


def kill_while_saving(number: int) -> None:
    original, remaining = torch.save, [number]

    def hook(value: Any, file: Any, **options: Any) -> None:
        remaining[0] -= 1
        if remaining[0] == 0:
            content = io.BytesIO()
            original(value, content, **options)
            half = content.tell() // 2
            file.write(content.getvalue()[:half])
            file.flush()
            kill()
            file.write(content.getvalue()[half:])  # after a signal that does not kill
        else:
            original(value, file, **options)

    torch.save = hook


def quantized_network() -> Any:  # imports onnxruntime, which a training does not need
    return import_module("visiontune.compression.quantization").Network


MOMENTS: dict[str, Callable[[int], None]] = {
    "probe": lambda number: kill_before(ProbeInitialization, "_fit", number),
    "epoch": lambda number: kill_after(FineTuner, "on_train_epoch_start", number),  # a stage has unfrozen
    "batch": lambda number: kill_before(FineTuner, "on_train_batch_start", number),
    "backward": lambda number: kill_before(FineTuner, "on_after_backward", number),  # gradients, but no step yet
    "step": lambda number: kill_after(FineTuner, "optimizer_step", number),  # but no average yet
    "validation": lambda number: kill_after(FineTuner, "validation_step", number),
    "row": lambda number: kill_after(History, "_write_row", number),  # a row of metrics.csv
    "saving": kill_while_saving,
    "renaming": lambda number: kill_before(Path, "replace", number, lambda path, _: path.name == "next.ckpt"),
    "quantized": lambda number: kill_before(quantized_network(), "quantized", number),
    "table": lambda number: kill_before(import_module("visiontune.compress"), "measure", number),
    "report": lambda number: kill_before(results, "write_page", number),
}
