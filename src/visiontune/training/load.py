"""Load a run's model from its directory, without running any code that the directory names."""

from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from visiontune import __version__
from visiontune.config.check import check
from visiontune.config.derive import derive
from visiontune.data import TaskInfo
from visiontune.errors import UserError, first_line, shell_override
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.runs.torch_file import load_torch_file
from visiontune.strategies.lora import Lora, plain_state
from visiontune.training.build import build_finetuner
from visiontune.training.trusted import UnknownTarget, check_address, check_trusted, targets

FULL = {"_target_": "visiontune.strategies.Full", "_partial_": True}


def open_run(path: str, trust: bool = False, loggers: bool = False) -> tuple[RunDirectory, DictConfig]:
    """Open a run; return it and its read-only config, after `check_config`."""
    run = RunDirectory.open(path)
    cfg = run.read_config()
    check_config(run, cfg, trust, loggers)
    OmegaConf.set_readonly(cfg, True)
    return run, cfg


def check_config(run: RunDirectory, cfg: DictConfig, trust: bool, loggers: bool = False) -> None:
    """Refuse a config that this version cannot read, or that `check_trusted` refuses.

    Args:
        trust: `trust=true` of the command line.
        loggers: whether the loggers of the run will be opened.

    Raises:
        UserError: it lacks a group, has a value of a wrong type, names a class that this package or a library does not
            have, or is not trusted.
    """
    for group in ("frozen_features", "technique", "data", "heads", "strategy", "optimizer", "scheduler", "trainer"):
        if not OmegaConf.is_dict(cfg.get(group)):
            raise version_mismatch(run, f"it has no {group}")
    try:
        check_trusted(cfg, trust, run.path, loggers)
        if loggers and not trust:
            check_address(run.path)
        if trust:
            _check_names(cfg)
    except UnknownTarget as unknown:
        package = unknown.target.split(".")[0]
        if package == __name__.split(".")[0]:
            raise version_mismatch(run, f"there is no {unknown.key}={unknown.target}") from unknown
        raise UserError(
            f"{run.config} names {unknown.key}={unknown.target}, which the installed {package} does not have: install "
            f"the version that is in {run.environment}"
        ) from unknown
    check("train", cfg)


def _check_names(cfg: DictConfig) -> None:
    """Import what a trusted config names."""
    for key, target in targets(cfg):
        try:
            get_object(target)
        except Exception as error:  # Hydra and Python raise many types for an unknown name
            if target.split(".")[0] in ("visiontune", "torch", "torchvision", "lightning", "torchmetrics", "timm"):
                raise UnknownTarget(key, target) from error


def version_mismatch(run: RunDirectory, reason: str) -> UserError:
    """The error for a run whose config this version cannot read."""
    version = written_by(run)
    if version == __version__:
        return UserError(
            f"{run.config} is damaged: {reason}. Restore it, or start a new run from its weights with "
            f"{shell_override('backbone.weights', run.path)}"
        )
    writer = f"visiontune {version}" if version else "another version of visiontune"
    return UserError(
        f"{run.config} was written by {writer}, and this is {__version__}: {reason}. Use {writer}, or start a new run "
        f"from its weights with {shell_override('backbone.weights', run.path)}"
    )


def written_by(run: RunDirectory) -> str | None:
    """The version of this package that started a run; None if its environment.json does not say."""
    packages = run.read_environment().get("packages")
    return packages.get("visiontune") if isinstance(packages, dict) else None


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
    schema = read_schema(checkpoint, path)
    if missing := [str(task) for task in cfg.heads if task not in schema]:
        raise UserError(f"{path} has the tasks {', '.join(schema)}, and {run.config} has the head {missing[0]}")
    if plain:
        cfg = derive(cfg, {"strategy": FULL})
    try:
        model, _ = build_finetuner(cfg, schema, cfg.trainer.max_epochs, load=False)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise UserError(f"what {run.config} builds needs more memory than this machine has") from error
        raise
    try:
        model.load_state_dict(plain_state(checkpoint) if plain else checkpoint["state_dict"])
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:  # other names, shapes or types
        raise UserError(
            f"{path} does not fit what {run.config} builds: {' '.join(str(error).split())[:300]}. Write the checkpoint "
            "of this run"
        ) from error
    return model.to(memory_format=torch.channels_last), schema


def read_schema(checkpoint: dict[str, Any], path: Path) -> dict[str, TaskInfo]:
    """The tasks of a checkpoint.

    Raises:
        UserError: it has none, or they are no names of a kind and of classes.
    """
    tasks = checkpoint["visiontune"].get("tasks")
    if isinstance(tasks, dict) and tasks:
        infos = {str(task): info for task, info in tasks.items() if isinstance(info, dict)}
        kinds = {task: (info.get("kind"), info.get("classes")) for task, info in infos.items()}
        schema = {
            task: TaskInfo(kind, classes)
            for task, (kind, classes) in kinds.items()
            if isinstance(kind, str) and isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        }
        if len(schema) == len(tasks):
            return schema
    raise UserError(f"{path} does not name its tasks and classes: write a checkpoint that train wrote")


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
        checkpoint = load_torch_file(path)
    except UserError:
        raise
    except Exception as error:  # torch raises many types: a corrupt zip, a pickle with code, a missing file
        reason = first_line(error) if is_zipfile(path) else "it is truncated, or torch.save did not write it"
        raise UserError(f"{path} cannot be read as a checkpoint: {reason}") from error
    description = checkpoint.get("visiontune") if isinstance(checkpoint, dict) else None
    if not isinstance(description, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{path} is not a checkpoint of this project: write a file of weights as backbone.weights=FILE")
    return checkpoint
