"""Build the objects of a run from its config."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer

from visiontune import __version__
from visiontune.callbacks import (
    AverageBatchNorm,
    Checkpoints,
    ExactResume,
    History,
    InitialValidation,
    LastWindowScale,
    NonFinite,
    ProbeInitialization,
    StageMonitor,
    UnfreezeMonitor,
)
from visiontune.callbacks.checkpoints import AtomicCheckpointIO
from visiontune.data import TaskInfo, VisionData
from visiontune.data import build_data as data_from_config
from visiontune.data.loaders import as_size
from visiontune.errors import UserError
from visiontune.loggers import check_loggers
from visiontune.models.backbones import Backbone, WeightReport
from visiontune.models.backbones import build as build_backbone
from visiontune.models.constants import turn_constants_into_buffers
from visiontune.models.features import FeatureShape
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads import Head
from visiontune.models.heads.class_rows import shared_parameters
from visiontune.models.heads.extra_metrics import build_extra_metrics
from visiontune.models.loss_terms import L1
from visiontune.models.pretrained import load_pretrained
from visiontune.nodes import build, wrong_arguments
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import logging_to
from visiontune.strategies.base import HEADS, Strategy
from visiontune.training.cluster import own_processes

OPTIMIZER = "a torch.optim.Optimizer, such as torch.optim.AdamW"
SCHEDULER = "a function, such as visiontune.optim.schedulers.cosine"
STRATEGY = "a Strategy, such as visiontune.strategies.Full"
HEAD = "a Head, such as visiontune.models.heads.ClassificationHead"
CALLBACK = "a Callback, such as lightning.pytorch.callbacks.EarlyStopping"
TRAINER = "lightning.Trainer"


def build_data(cfg: DictConfig, download: bool = True) -> VisionData:
    """Read the data and split it, for the tasks in `heads`.

    Args:
        download: if False, a data set that is not under its root is an error, whatever the config says.
    """
    tasks = [str(task) for task in cfg.heads]
    return data_from_config(cfg.data, cfg.augment, seed=cfg.seed, tasks=tasks, allow_download=download)


def build_network(cfg: DictConfig, download: bool = True, load: bool = True) -> tuple[Backbone, WeightReport]:
    """Build the backbone with its weights; see `build_finetuner`."""
    size = cfg.data.image_size if isinstance(cfg.data.image_size, int) else list(cfg.data.image_size)
    options: Any = OmegaConf.to_container(cfg.backbone, resolve=True)
    for name, key in (("in_channels", "data.channels"), ("image_size", "data.image_size")):
        if name in options:
            raise UserError(f"backbone.{name}={options[name]}: write {key}={options[name]}, which also sets the data")
    options |= {} if load else {"weights": None}
    return build_backbone(**options, in_channels=cfg.data.channels, image_size=size, allow_download=download)


def build_strategy(cfg: DictConfig, backbone: Backbone, epochs: int) -> Strategy:
    """Build the strategy for the stages of the backbone and the heads; it may add adapters to the backbone."""
    names = [name for name, _ in backbone.stages()] + [HEADS]
    make_strategy = build(cfg.strategy, "strategy", STRATEGY, Strategy, partial=True)
    with wrong_arguments("strategy"):
        strategy: Strategy = make_strategy(stages=names, epochs=epochs)
        strategy.prepare(backbone.model)
    return strategy


def build_finetuner(
    cfg: DictConfig, schema: Mapping[str, TaskInfo], epochs: int, download: bool = True, load: bool = True
) -> tuple[FineTuner, WeightReport]:
    """Build a FineTuner: the backbone and heads of the sizes in the data's schema, with their pretrained weights.

    Args:
        download: if False, weights that need a download stay random (the report says so).
        load: if False, all weights stay random, since a checkpoint is loaded next.
    """
    backbone, report = build_network(cfg, download, load)
    shape = replace(backbone.shape, image_size=as_size(cfg.data.image_size))
    heads = {str(task): build_head(str(task), node, shape, schema[str(task)]) for task, node in cfg.heads.items()}
    for part in (backbone, *heads.values()):
        turn_constants_into_buffers(part)
    pretrained = cfg.get("pretrained")  # runs of older versions have no such key
    if load and pretrained is not None and pretrained.weights is not None:
        report = load_pretrained(backbone, heads, pretrained, schema, download)
    strategy = build_strategy(cfg, backbone, epochs)  # last, since it may add adapters to the backbone
    shared = [parameter for head in heads.values() for parameter in shared_parameters(head, head.class_rows())]
    strategy.prepare_heads(shared)
    model = FineTuner(
        backbone,
        heads,
        optimizer=build(cfg.optimizer, "optimizer", OPTIMIZER, Optimizer, partial=True),
        scheduler=build(cfg.scheduler, "scheduler", SCHEDULER, partial=True),
        strategy=strategy,
        loss_weights=cfg.loss_weights if isinstance(cfg.loss_weights, str) else dict(cfg.loss_weights),
        sam=cfg.technique.sam.rho if "sam" in cfg.technique else None,
        monitor=cfg.monitor,
        seed=cfg.seed,
        description={
            **strategy.describe(),
            "version": __version__,
            "tasks": {task: {"kind": info.kind, "classes": list(info.classes)} for task, info in schema.items()},
        },
    )
    if cfg.l1:
        model.loss_terms.append(L1(cfg.l1))
    return model, report


def build_head(task: str, node: DictConfig, features: FeatureShape, info: TaskInfo) -> Head:
    """Build the head of a task, with the extra metrics of its config."""
    options: Any = OmegaConf.to_container(node, resolve=True)
    metrics = options.pop("metrics", None) or {}
    # Hydra would convert the features and the info to config nodes.
    make_head = build(options, f"heads.{task}", HEAD, Head, partial=True)
    with wrong_arguments(f"heads.{task}"):
        head: Head = make_head(features=features, info=info)
    key = f"heads.{task}.metrics"
    head.add_metrics(build_extra_metrics(metrics, info.classes, head.metric_arguments, key), key)
    return head


def build_trainer(cfg: DictConfig, run: RunDirectory, model: FineTuner, loggers: Sequence[Logger] = ()) -> L.Trainer:
    """Build the Trainer with the fixed callbacks and those of the config; compile the backbone if `compile` is true."""
    if cfg.compile:
        model.backbone.compile()  # in place: the names in checkpoints stay the same
    settings = OmegaConf.to_container(cfg.trainer, resolve=True)
    assert isinstance(settings, dict)
    history = History(run.history, model.monitor)
    nonfinite = NonFinite(skip=cfg.get("on_nonfinite") == "skip")  # runs of older versions have no such key
    first: list[L.Callback] = [ExactResume(), nonfinite, LastWindowScale(), AverageBatchNorm(), history]
    first += [ProbeInitialization()] if cfg.probe else []
    last = [
        StageMonitor(),
        UnfreezeMonitor(model.monitor),
        InitialValidation(history),
        Checkpoints(run, model.monitor, keep_start="wise_ft" in cfg.technique, **cfg.checkpoints),
    ]
    settings["strategy"] = distributed(settings["strategy"])
    terminal = sys.stdout.isatty()
    trainer = build(settings, "trainer", TRAINER, L.Trainer, partial=True)(
        callbacks=[*first, *_callbacks(cfg, model), *last, *([RichProgressBar()] if terminal else [])],
        enable_progress_bar=terminal,  # otherwise History prints one line per epoch
        logger=list(loggers),
        plugins=own_processes(),
        default_root_dir=str(run.path),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    # Lightning puts it last. A resumed run would then repeat what the other callbacks do when a batch starts.
    trainer.callbacks.sort(key=lambda callback: not isinstance(callback, Checkpoints))
    return trainer


def check(cfg: DictConfig, model: FineTuner) -> None:
    """Build optimizer, scheduler, callbacks and Trainer once, to find wrong arguments before a run begins.

    Raises:
        UserError: one of them rejects its arguments, or SAM cannot be used with the trainer's settings.
    """
    steps = {"steps": 100, "monitor": model.monitor}
    settings = OmegaConf.to_container(cfg.trainer, resolve=True)
    assert isinstance(settings, dict)
    quiet = {
        "plugins": own_processes(),
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    if "sam" in cfg.technique and (settings["accumulate_grad_batches"] != 1 or settings["precision"] == "16-mixed"):
        raise UserError(
            "technique=[sam] computes two gradients of one batch: write trainer.accumulate_grad_batches=1, and "
            "trainer.precision=bf16-mixed or 32-true"
        )
    if settings.get("num_nodes", 1) != 1:
        raise UserError(
            f"trainer.num_nodes={settings['num_nodes']}: a run trains on one machine; write ~trainer.num_nodes"
        )
    if settings.get("enable_checkpointing") is False:
        raise UserError("trainer.enable_checkpointing=false: a run needs its checkpoints; remove this key")
    check_loggers(cfg)
    with wrong_arguments("optimizer"):
        optimizer = model.build_optimizer()
    with wrong_arguments("scheduler"):
        model.make_scheduler(optimizer, **steps)
    with wrong_arguments("callbacks"):
        _callbacks(cfg, model)
    with wrong_arguments("trainer"), logging_to(None, quiet=True):
        settings |= {"strategy": "auto", "devices": 1}
        build(settings, "trainer", TRAINER, L.Trainer, partial=True)(**quiet)


def _callbacks(cfg: DictConfig, model: FineTuner) -> list[L.Callback]:
    """Build the callbacks of `technique`, then those of `callbacks`; partial ones get the monitor and its mode."""
    name, mode = model.monitor
    techniques = {key: node for key, node in cfg.technique.items() if OmegaConf.is_dict(node) and "_target_" in node}
    nodes = {f"technique.{key}": node for key, node in techniques.items()}
    nodes |= {f"callbacks.{key}": node for key, node in cfg.callbacks.items() if node}
    callbacks = []
    for key, node in nodes.items():
        callback = build(node, key, CALLBACK, L.Callback)
        with wrong_arguments(key):
            callback = callback(monitor=name, mode=mode) if isinstance(callback, partial) else callback
        if not isinstance(callback, L.Callback):
            raise UserError(f"{key}: expected {CALLBACK}, got a value of type {type(callback).__name__}")
        callbacks.append(callback)
    return callbacks


def distributed(strategy: Any) -> Any:
    """Replace "ddp" by the node of a DDPStrategy that allows frozen stages and unequal numbers of evaluation batches.

    DDP registers all parameters before any is frozen; frozen ones then count as unused. Buffers are not broadcast in
    each forward pass, since a rank with one more batch would wait forever. Instead, BatchNorm statistics are averaged
    before each validation.
    """
    if strategy != "ddp":
        return strategy
    return {
        "_target_": "lightning.pytorch.strategies.DDPStrategy",
        "find_unused_parameters": True,
        "broadcast_buffers": False,
        "timeout": {"_target_": "datetime.timedelta", "minutes": 10},
    }
