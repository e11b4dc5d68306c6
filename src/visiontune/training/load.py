"""A run's model, read from its directory alone and without running anything that lies in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import get_object
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from visiontune.data import TaskInfo
from visiontune.errors import UserError
from visiontune.models.backbones import WeightReport, load_state
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.strategies.lora import beside_adapters, plain_state
from visiontune.training.build import build_model

# What a config may name: whatever this package defines, and of the libraries it is made of classes of these kinds. Not
# their functions: torch.utils.collect_env.run starts any command.
LIBRARIES = ("torch", "torchvision", "lightning", "torchmetrics", "timm", "peft", "torch_pruning", "torchao")
KINDS = (nn.Module, Optimizer, LRScheduler, L.Callback, L.Trainer, Logger, Profiler, Strategy)


def check_trusted(cfg: DictConfig, trust: bool = False) -> None:
    """Refuse a run whose config names code from elsewhere.

    Raises:
        UserError: a `_target_` outside this package and its libraries' classes, and not `trust`.
    """
    for key, target in _targets(cfg):
        if not trust and not _harmless(target):
            raise UserError(
                f"the run's config names {key}={target}, which is outside this package and its libraries' classes; "
                "write trust=true if you know where the run comes from"
            )


def _harmless(target: str) -> bool:
    package = target.split(".")[0]
    if package not in ("visiontune", *LIBRARIES):
        return False
    found = get_object(target)
    if package == "visiontune":  # and not what a module of it imports: visiontune.runs.environment.subprocess.run
        return str(getattr(found, "__module__", "")).split(".")[0] == package
    return isinstance(found, type) and issubclass(found, KINDS)


def _targets(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, ListConfig):
        for i, value in enumerate(node):
            yield from _targets(value, f"{prefix}[{i}]")
    elif isinstance(node, DictConfig):
        for key, value in node.items():
            name = f"{prefix}.{key!s}" if prefix else str(key)
            if key == "_target_":
                yield name, str(value)
            else:
                yield from _targets(value, name)


def open_run(path: str, trust: bool = False) -> tuple[RunDirectory, DictConfig]:
    """A run and its checked config."""
    run = RunDirectory.open(path)
    cfg = run.read_config()
    check_trusted(cfg, trust)
    return run, cfg


def load_model(
    run: RunDirectory, cfg: DictConfig, which: str = "best", plain: bool = False
) -> tuple[FineTuner, dict[str, TaskInfo]]:
    """The FineTuner of a run with the weights of a checkpoint, and its tasks with their class names.

    Args:
        which: "best", "last" or the path of a checkpoint.
        plain: adapters merged into the weights that they stand beside.

    Raises:
        UserError: no such checkpoint, or not one of this package.
    """
    path = run.checkpoint(which)
    checkpoint = read_checkpoint(path)
    schema = {task: TaskInfo(**info) for task, info in checkpoint["visiontune"]["tasks"].items()}
    if plain:
        cfg = OmegaConf.merge(cfg, {"strategy": None}, {"strategy": {}})  # type: ignore[assignment]
    model, _ = build_model(cfg, schema, cfg.trainer.max_epochs, load=False)
    model.load_state_dict(plain_state(checkpoint) if plain else checkpoint["state_dict"])
    return model.to(memory_format=torch.channels_last), schema


def read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken zip, a pickle with code in it, no file at all: torch has a type for each
        raise UserError(f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, dict) or "visiontune" not in checkpoint:
        raise UserError(f"{path} is no checkpoint of this project (a plain weights file goes to backbone.weights=FILE)")
    return checkpoint


def adopt_weights(cfg: DictConfig, overrides: list[str]) -> None:
    """`weights_from=RUN` takes that run's backbone too, unless the command line names another."""
    _, old = open_run(cfg.weights_from, cfg.trust)
    if not any(o.lstrip("+").startswith(("backbone=", "backbone.name=")) for o in overrides):
        with open_dict(cfg):
            cfg.backbone = OmegaConf.merge(old.backbone, {"min_matched": cfg.backbone.min_matched})
    cfg.backbone.weights = None


def load_weights(model: FineTuner, run: RunDirectory, min_matched: float) -> WeightReport:
    """Start `model` from another run's best checkpoint.

    A head whose classes are others keeps its initialisation and is reported as reshaped, even where the shapes agree:
    its rows would mean something else.
    """
    path = run.checkpoint("best")
    checkpoint = read_checkpoint(path)
    state = plain_state(checkpoint)
    old, new = checkpoint["visiontune"]["tasks"], model.description["tasks"]
    changed = []
    for task in set(old) & set(new):
        if old[task]["classes"] != new[task]["classes"]:
            words = f"{len(old[task]['classes'])} classes -> {len(new[task]['classes'])} others, initialised"
            rows = [key for key in state if key.startswith(f"heads.{task}.")]
            changed += [f"{key} {tuple(state.pop(key).shape)}: {words}" for key in rows]
    mean_std = {key: state.pop(key) for key in ("backbone.mean", "backbone.std")}
    own = model.state_dict()
    state |= {key: value for key, value in mean_std.items() if own[key].shape == value.shape}
    state |= {key: own[key] for key in mean_std if key not in state}
    report = load_state(model, beside_adapters(state, own), f"run {run.path.name}", min_matched)
    report.reshaped += changed
    report.missing = [key for key in report.missing if not any(line.startswith(f"{key} ") for line in changed)]
    return report
