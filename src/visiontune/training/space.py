"""The room on the disk that a run needs."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from visiontune.errors import UserError
from visiontune.models.finetuner import FineTuner

FILES = 4  # best.ckpt, last.ckpt, previous.ckpt and the one that is being written
LOGS = 10_000_000  # bytes of metrics, curves, predictions and the report


def check_space(cfg: DictConfig, model: FineTuner, folder: Path, checkpoints: Path | None = None) -> None:
    """Check that the disk of `folder`, which need not exist yet, holds the checkpoints of a run.

    Args:
        checkpoints: those of a run that is resumed; their files count as room.

    Raises:
        UserError: the disk has too little space.
    """
    place = next(path for path in (folder, *folder.parents) if path.exists())
    total, _, free = shutil.disk_usage(place)
    size = checkpoint_bytes(cfg, model)
    existing = sum(path.stat().st_size for path in checkpoints.glob("*.ckpt")) if checkpoints else 0
    needed = max(0, FILES * size - existing) + LOGS
    if total and free < needed:  # some network file systems report neither
        raise UserError(
            f"the disk of {place} has {_megabytes(free)} free, and the run needs {_megabytes(needed)}: {FILES} "
            f"checkpoints of {_megabytes(size)}, and logs. Free some space, or write to another disk with run_dir=DIR "
            "or paths.logs=DIR"
        )


def checkpoint_bytes(cfg: DictConfig, model: FineTuner) -> int:
    """About the size of a checkpoint: weights, their average, the optimizer's state, and gradients of a window."""
    state = _bytes(list(model.state_dict().values()))
    trained = {name for epoch in range(cfg.trainer.max_epochs) for name in model.strategy.trainable(epoch)}
    parameters = _bytes([p for name, stage in model.stages() if name in trained for p in stage.parameters()])
    averages = len({"ema", "swa"} & set(cfg.technique))
    gradients = int(cfg.trainer.accumulate_grad_batches > 1)
    return state * (1 + averages) + parameters * (_optimizer_tensors(model) + gradients)


def _optimizer_tensors(model: FineTuner) -> int:
    """How many tensors of its size the optimizer keeps for a parameter; 2, as Adam's, if it cannot tell."""
    parameter = nn.Parameter(torch.zeros(2, 3))
    parameter.grad = torch.zeros(2, 3)
    try:
        optimizer = model.make_optimizer([parameter])
        optimizer.step()
    except Exception:  # an optimizer of the user may need other arguments
        return 2
    values = optimizer.state.get(parameter, {}).values()
    return sum(isinstance(value, torch.Tensor) and value.shape == parameter.shape for value in values)


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
