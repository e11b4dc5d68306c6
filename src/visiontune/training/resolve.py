"""Resolve a config: replace `auto` and `null` by values that depend on the command, the data, the machine or a run."""

import math
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from visiontune.config.check import check, check_closed
from visiontune.config.compose import train_config
from visiontune.config.derive import derive
from visiontune.config.devices import count_devices
from visiontune.config.launch import Launch
from visiontune.config.pretrained import check_pretrained, image_defaults, refuse_unused
from visiontune.config.renamed import check_keys
from visiontune.errors import UserError, shell_override
from visiontune.models.backbones import resolve_weights
from visiontune.models.heads import Head
from visiontune.models.heads.probeable import Probeable
from visiontune.nodes import find
from visiontune.training.build import HEAD, STRATEGY, build_data
from visiontune.training.load import open_run

AUTO = "auto"


def resolve(cfg: DictConfig, launch: Launch) -> DictConfig:
    """Check the config of a new run and replace `auto` and `null` by values; the result is read-only.

    Args:
        cfg: the composed `train.yaml`.

    Raises:
        UserError: a key has an old name, or a value has the wrong type, is out of range, or does not fit the machine
            or another run.
    """
    check_keys(cfg)
    if cfg.name is None:  # before `check`, which resolves the interpolations of ${name}
        cfg = OmegaConf.merge(cfg, {"name": _default_name(cfg, launch)})  # type: ignore[assignment]
    new = check("train", cfg)
    check_closed(new)
    new.sweep = new.launcher = None  # of the sweep, not of this run
    if Path(new.name).is_absolute() or ".." in Path(new.name).parts:
        raise UserError(
            f"name={new.name}: expected the name of a folder in paths.logs; for another place write "
            f"{shell_override('run_dir', new.name)}"
        )
    if len({"ema", "swa"} & set(new.technique)) > 1:
        raise UserError("technique=[ema,swa]: both average the weights; write technique=[ema] or technique=[swa]")
    if new.test == AUTO:
        new.test = launch.job is None or new.data.folds is not None
    if launch.job is not None:
        new.run_dir = str(Path(new.sweep_dir) / f"{launch.job:03d}")
    if new.weights_from is not None:
        refuse_unused(launch.overrides, new.weights_from)
        _, source = open_run(new.weights_from, new.trust)
        if not launch.sets_backbone:
            changed = {key: new.backbone[key] for key in ("min_matched", *launch.backbone_keys)}
            new.backbone = OmegaConf.merge(source.backbone, changed)
        new.backbone.weights = new.pretrained = None  # the run has the weights of the backbone and of its heads
    elif new.pretrained is not None:
        check_pretrained(new, launch.backbone)
        if new.pretrained.task not in new.heads and launch.overrides:
            new.data.update(image_defaults(launch.overrides))
    if new.search is not None and new.search.lr_range_test == AUTO:
        new.search.lr_range_test = not launch.sets_lr
    new = resolve_machine(new)
    changes: dict[str, Any] = {}
    if new.probe == AUTO:
        changes["probe"] = _is_pretrained(new) and any(_has_probe(task, head) for task, head in new.heads.items())
    if new.epochs is None:
        changes["epochs"] = _epochs_by_rule(new)
        if new.trainer.max_epochs is None:
            changes["trainer.max_epochs"] = changes["epochs"]
    return derive(new, changes)


def _default_name(cfg: DictConfig, launch: Launch) -> str:
    """The name of the data: `data.name`, else the folder of `data.root`, else the option of the group `data`."""
    root = cfg.data.get("root")
    return str(cfg.data.get("name") or (Path(str(root)).expanduser().resolve().name if root else "") or launch.data)


def resolve_machine(cfg: DictConfig) -> DictConfig:
    """Resolve what depends on the machine, whenever a run starts or resumes: paths, number of devices, teacher.

    Raises:
        UserError: the machine has fewer devices, or the teacher is not the one that the run started with.
    """
    changes: dict[str, Any] = {"trainer.devices": count_devices(cfg.trainer)}
    if root := cfg.data.get("root"):
        # Absolute, since a run may be opened from another working directory.
        changes["data.root"] = str(Path(root).expanduser().resolve())
    if cfg.distill.teacher is not None:
        teacher, _ = open_run(cfg.distill.teacher, cfg.trust)
        digest = teacher.digest()
        if cfg.distill.sha256 not in (None, digest):
            raise UserError(
                f"distill.teacher={cfg.distill.teacher}: its best checkpoint is not the one that this run started "
                "with; restore that checkpoint, or start a new run"
            )
        changes |= {"distill.teacher": str(teacher.path), "distill.sha256": digest}
    return derive(cfg, changes)


def candidate_configs(cfg: DictConfig, launch: Launch) -> dict[str, DictConfig]:
    """For each strategy in `search.candidates`, the config of the run with that strategy.

    Raises:
        UserError: one of the configs is wrong.
    """
    parsed = OverridesParser.create().parse_overrides(list(launch.overrides))
    other_overrides = [
        str(override.input_line)
        for override in parsed
        if override.key_or_group not in ("strategy", "search") and not override.key_or_group.startswith("search.")
    ]
    # Keep the directories of `cfg`: composing again would give a sweep's folder a later time.
    directories = {"run_dir": cfg.run_dir, "sweep_dir": cfg.sweep_dir}
    configs = {}
    for name in cfg.search.candidates:
        composed = train_config([*other_overrides, "search=none", f"strategy={name}"])
        # search=none does not remove keys of `search` that a user's file sets.
        configs[name] = derive(resolve(derive(composed, {"search": None}), launch), directories)
    return configs


def _is_pretrained(cfg: DictConfig) -> bool:
    backbone = cfg.backbone
    if cfg.weights_from is not None or (cfg.pretrained is not None and cfg.pretrained.weights is not None):
        return True
    return resolve_weights(backbone.name, backbone.library, backbone.weights) is not None


def _has_probe(task: Any, head: DictConfig) -> bool:
    """Whether a head's class can start from a linear probe."""
    target = find(head._target_, f"heads.{task}", HEAD, Head)
    return isinstance(target, type) and issubclass(target, Probeable)


def _epochs_by_rule(cfg: DictConfig) -> int:
    """The number of epochs that the strategy computes from the size of the data.

    Raises:
        UserError: the strategy has no such rule.
    """
    rule = getattr(find(cfg.strategy._target_, "strategy", STRATEGY), "epochs_for", None)
    if rule is None:
        raise UserError("epochs=null: only strategy=bit_hyperrule computes the number of epochs; write epochs=30")
    data = build_data(cfg)
    steps = math.ceil(data.steps_per_epoch(cfg.trainer.devices) / cfg.trainer.accumulate_grad_batches)
    return rule(len(data.samples("train")), steps)
