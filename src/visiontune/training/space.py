"""The room on the disk that a run or a sweep needs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from visiontune.errors import UserError
from visiontune.models.finetuner import FineTuner
from visiontune.nodes import build
from visiontune.runs.disk import free_space, megabytes
from visiontune.strategies import Stages, Strategy
from visiontune.training.build import build_network, build_strategy

FILES = 4  # best.ckpt, last.ckpt, previous.ckpt and the one that is being written
LOGS = 10_000_000  # bytes of metrics, curves, predictions and the report


def check_space(cfg: DictConfig, model: FineTuner, folder: Path, checkpoints: Path | None = None) -> None:
    """Check that the disk of `folder`, which need not exist yet, holds the checkpoints of a run.

    Args:
        checkpoints: those of a run that is resumed; their files count as room.

    Raises:
        UserError: the disk has too little space.
    """
    place, free = free_space(folder)
    size = checkpoint_bytes(cfg, model)
    existing = sum(path.stat().st_size for path in checkpoints.glob("*.ckpt")) if checkpoints else 0
    needed = max(0, FILES * size - existing) + LOGS
    if free is not None and free < needed:
        raise UserError(
            f"the disk of {place} has {megabytes(free)} free, and the run needs {megabytes(needed)}: {FILES} "
            f"checkpoints of {megabytes(size)}, and logs. Free some space, or write to another disk with run_dir=DIR "
            "or paths.logs=DIR"
        )


def check_sweep_space(configs: Sequence[DictConfig], folder: Path) -> None:
    """Check before the first job that the disk of `folder` holds the checkpoints that all jobs leave there.

    It refuses only what cannot fit: it counts best.ckpt and last.ckpt without the heads, and no jobs with
    `weights_from`. Each job checks the space again before it begins.

    Args:
        configs: the composed config of each job.

    Raises:
        UserError: the disk has too little space.
    """
    place, free = free_space(folder)
    sizes: dict[str, int] = {}
    needed = 0
    for cfg in configs:
        key = _size_key(cfg)
        if key not in sizes:
            sizes[key] = _min_bytes(cfg)
        needed += sizes[key]
    if free is not None and free < needed:
        raise UserError(
            f"the disk of {place} has {megabytes(free)} free, and the {len(configs)} jobs need at least "
            f"{megabytes(needed)}: each keeps best.ckpt and last.ckpt. Free some space, write to another disk with "
            "sweep_dir=DIR or paths.logs=DIR, or start fewer jobs"
        )


def _size_key(cfg: DictConfig) -> str:
    """The parts of a config on which `_min_bytes` depends."""
    parts: dict[str, Any] = {
        key: OmegaConf.to_container(cfg[key], resolve=True)
        for key in ("backbone", "strategy", "technique", "trainer", "optimizer")
    }
    for name in ("lr", "weight_decay"):
        parts["optimizer"].pop(name, None)
    return repr([parts, cfg.weights_from, cfg.data.get("channels"), cfg.data.get("image_size")])


def _min_bytes(cfg: DictConfig) -> int:
    """The least size of the two checkpoints of a job; 0 if it is not known."""
    if cfg.weights_from is not None:
        return 0
    try:
        backbone, _ = build_network(cfg, download=False, load=False)
        strategy = build_strategy(cfg, backbone, cfg.trainer.max_epochs)
        tensors = backbone.state_dict().values()
        make_optimizer = build(cfg.optimizer, "optimizer", "an optimizer", partial=True)
        best = _checkpoint_bytes(cfg, tensors, 0, 0)  # it may be the linear probe, without a step of the optimizer
        trained = _trained_bytes(cfg, strategy, backbone.stages())
        return best + _checkpoint_bytes(cfg, tensors, trained, _optimizer_tensors(make_optimizer))
    except Exception:  # the job itself explains its errors
        return 0


def checkpoint_bytes(cfg: DictConfig, model: FineTuner) -> int:
    """About the size of a checkpoint: weights, their average, the optimizer's state, and gradients of a window."""
    trained = _trained_bytes(cfg, model.strategy, model.stages())
    gradients = int(cfg.trainer.accumulate_grad_batches > 1)
    return _checkpoint_bytes(
        cfg, model.state_dict().values(), trained, _optimizer_tensors(model.make_optimizer) + gradients
    )


def _checkpoint_bytes(cfg: DictConfig, state: Iterable[Tensor], trained: int, tensors: int) -> int:
    """Bytes of the weights and their average, and of `tensors` tensors for each trained parameter."""
    averages = len({"ema", "swa"} & set(cfg.technique))
    return _bytes(state) * (1 + averages) + trained * tensors


def _trained_bytes(cfg: DictConfig, strategy: Strategy, stages: Stages) -> int:
    """Bytes of the parameters that train in some epoch."""
    trained = {name for epoch in range(cfg.trainer.max_epochs) for name in strategy.trainable(epoch)}
    return _bytes(p for name, stage in stages if name in trained for p in stage.parameters())


def _optimizer_tensors(make_optimizer: Any) -> int:
    """How many tensors of its size the optimizer keeps for a parameter; 2, as Adam's, if it cannot tell."""
    parameter = nn.Parameter(torch.zeros(2, 3))
    parameter.grad = torch.zeros(2, 3)
    try:
        optimizer = make_optimizer([parameter])
        optimizer.step()
    except Exception:  # an optimizer of the user may need other arguments
        return 2
    values = optimizer.state.get(parameter, {}).values()
    return sum(isinstance(value, torch.Tensor) and value.shape == parameter.shape for value in values)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
