"""Load a run's model from its directory, without running any code that the directory names."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import get_object
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from visiontune import __version__
from visiontune.config.derive import derive
from visiontune.data import TaskInfo
from visiontune.errors import UserError, first_line, shell_override
from visiontune.models.backbones import WeightReport, load_state
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.strategies.lora import Lora, plain_state, rename_for_adapters
from visiontune.training.build import build_finetuner

# A config may name everything that this package defines, and classes of these kinds from its libraries. It must not
# name functions of the libraries: torch.utils.collect_env.run runs any command.
LIBRARIES = ("torch", "torchvision", "lightning", "torchmetrics", "timm", "peft", "torch_pruning", "torchao")
FULL = {"_target_": "visiontune.strategies.Full", "_partial_": True}
KINDS = (nn.Module, Optimizer, LRScheduler, L.Callback, L.Trainer, Logger, Profiler, Strategy)


def check_trusted(cfg: DictConfig, trust: bool = False) -> None:
    """Refuse a run whose config names code from outside this package and its libraries.

    Raises:
        UserError: a `_target_` is outside this package and its libraries' classes, and `trust` is false.
    """
    for key, target in _targets(cfg):
        if not trust and not _is_allowed(target):
            raise UserError(
                f"the run's config names {key}={target}, which is outside this package and its libraries' classes; "
                "write trust=true if you know where the run comes from"
            )


def _is_allowed(target: str) -> bool:
    package = target.split(".")[0]
    if package not in ("visiontune", *LIBRARIES):
        return False
    value = get_object(target)
    if package == "visiontune":  # defined here and not only imported: visiontune.runs.environment.subprocess.run
        return str(getattr(value, "__module__", "")).split(".")[0] == package
    return isinstance(value, type) and issubclass(value, KINDS)


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
    """Open a run; return it and its read-only config, after `check_readable` and `check_trusted`."""
    run = RunDirectory.open(path)
    cfg = run.read_config()
    check_readable(run, cfg)
    check_trusted(cfg, trust)
    OmegaConf.set_readonly(cfg, True)
    return run, cfg


def check_readable(run: RunDirectory, cfg: DictConfig) -> None:
    """Refuse a config that was written by another version and that this version cannot read.

    Raises:
        UserError: it lacks a group, or names a class that this package or a library does not have.
    """
    for group in ("frozen_features", "technique"):
        if group not in cfg:
            raise version_mismatch(run, f"it has no {group}")
    for key, target in _targets(cfg):
        package = target.split(".")[0]
        if package not in ("visiontune", *LIBRARIES):
            continue
        try:
            get_object(target)
        except Exception as error:  # Hydra and Python raise many types for an unknown name
            if package == "visiontune":
                raise version_mismatch(run, f"there is no {key}={target}") from error
            raise UserError(
                f"{run.config} names {key}={target}, which the installed {package} does not have: install the version "
                f"that is in {run.environment}"
            ) from error


def version_mismatch(run: RunDirectory, reason: str) -> UserError:
    """The error for a run whose config this version cannot read."""
    version = written_by(run)
    writer = f"visiontune {version}" if version else "another version of visiontune"
    return UserError(
        f"{run.config} was written by {writer}, and this is {__version__}: {reason}. Use {writer}, or start a new run "
        f"from its weights with {shell_override('backbone.weights', run.path)}"
    )


def written_by(run: RunDirectory) -> str | None:
    """The version of this package that started a run; None if its environment.json does not say."""
    if not run.environment.is_file():
        return None
    return json.loads(run.environment.read_text())["packages"].get("visiontune")


def load_model(
    run: RunDirectory, cfg: DictConfig, which: str = "best", plain: bool = False
) -> tuple[FineTuner, dict[str, TaskInfo]]:
    """Load the FineTuner of a run with the weights of a checkpoint; also return its tasks with their class names.

    Args:
        which: "best", "last" or the path of a checkpoint.
        plain: merge LoRA adapters into the weights.

    Raises:
        UserError: there is no such checkpoint, or it cannot be read, or another program wrote it.
    """
    path = run.checkpoint(which)
    checkpoint = read_checkpoint(path)
    schema = {task: TaskInfo(**info) for task, info in checkpoint["visiontune"]["tasks"].items()}
    if plain:
        cfg = derive(cfg, {"strategy": FULL})
    model, _ = build_finetuner(cfg, schema, cfg.trainer.max_epochs, load=False)
    model.load_state_dict(plain_state(checkpoint) if plain else checkpoint["state_dict"])
    return model.to(memory_format=torch.channels_last), schema


def without_adapters(cfg: DictConfig) -> DictConfig:
    """The config for the weights with merged LoRA adapters; `cfg` itself if the run has no adapters."""
    strategy = get_object(cfg.strategy._target_)
    has_adapters = isinstance(strategy, type) and issubclass(strategy, Lora)
    return derive(cfg, {"strategy": FULL}) if has_adapters else cfg


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running any code in it.

    Raises:
        UserError: it cannot be read, or another program wrote it.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types: a corrupt zip, a pickle with code, a missing file
        raise UserError(f"{path} cannot be read as a checkpoint: {first_line(error)}") from error
    if not isinstance(checkpoint, dict) or "visiontune" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of this project: write a file of weights as backbone.weights=FILE")
    return checkpoint


def load_weights(model: FineTuner, run: RunDirectory, min_matched: float) -> WeightReport:
    """Load the weights of another run's best checkpoint into `model`.

    A head with other classes keeps its initial weights and is reported as reshaped, even if the shapes are equal, since
    its rows would mean other classes.

    Raises:
        UserError: less than `min_matched` (0..1) of the parameters match.
    """
    path = run.checkpoint("best")
    checkpoint = read_checkpoint(path)
    state = plain_state(checkpoint)
    old, new = checkpoint["visiontune"]["tasks"], model.description["tasks"]
    reshaped = []
    for task in set(old) & set(new):
        if old[task]["classes"] != new[task]["classes"]:
            words = f"{len(old[task]['classes'])} classes -> {len(new[task]['classes'])} others, initialised"
            rows = [key for key in state if key.startswith(f"heads.{task}.")]
            reshaped += [f"{key} {tuple(state.pop(key).shape)}: {words}" for key in rows]
    mean_std = {key: state.pop(key) for key in ("backbone.mean", "backbone.std")}
    initial = model.state_dict()
    state |= {key: value for key, value in mean_std.items() if initial[key].shape == value.shape}
    state |= {key: initial[key] for key in mean_std if key not in state}
    report = load_state(model, rename_for_adapters(state, initial), f"run {run.path.name}", min_matched)
    report.reshaped += reshaped
    report.missing = [key for key in report.missing if not any(line.startswith(f"{key} ") for line in reshaped)]
    return report
