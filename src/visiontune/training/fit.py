"""The two parts of a run that every process of it takes: make its objects, and fit."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import torch
from hydra.utils import get_object
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from visiontune.config.devices import processes
from visiontune.data import VisionData
from visiontune.errors import UserError
from visiontune.frozen_features.cache import FrozenFeatureCache
from visiontune.frozen_features.settings import attach_cache
from visiontune.loggers.hyperparameters import flatten
from visiontune.loggers.log import log_hyperparameters
from visiontune.models.backbones import WeightReport
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.probeable import Probeable
from visiontune.runs.directory import RunDirectory
from visiontune.training.build import build_data, build_model, build_trainer, check
from visiontune.training.load import load_weights
from visiontune.training.memory import keep_allocated
from visiontune.training.teacher import attach_teacher


def prepare(cfg: DictConfig, download: bool = True, load: bool = True) -> tuple[VisionData, FineTuner, WeightReport]:
    """Everything that can be wrong with a config or the data is found here, before anything is started.

    Args:
        download: False fetches no weights (the plan).
        load: False loads none at all, since a checkpoint will.
    """
    keep_allocated()
    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed={cfg.seed}: write a whole number from 0 to {2**32 - 1}")
    L.seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg)
    data.steps_per_epoch(processes(cfg))  # raises where it cannot be shared among so many ranks
    if cfg.epochs is None:
        steps = math.ceil(data.steps_per_epoch(processes(cfg)) / cfg.trainer.accumulate_grad_batches)
        cfg.epochs = _rule(cfg)(len(data.samples("train")), steps)
    epochs = cfg.get("planned_epochs", cfg.trainer.max_epochs)
    model, weights = build_model(cfg, data.schema, epochs, download, load)
    for task, head in model.heads.items():
        for split in ("train", "val"):
            targets = [sample.targets.get(task) for sample in data.samples(split)]
            if all(target is None for target in targets):
                raise UserError(
                    f"the {split} split has no label of {task}: give it some (data.split_ratio, data.split), or leave "
                    f"{task} out of heads"
                )
            if split == "train":
                head.fit_targets(targets)
    if load and cfg.weights_from is not None:
        weights = load_weights(model, RunDirectory.open(cfg.weights_from), cfg.backbone.min_matched)
    if cfg.probe == "auto":
        pretrained = weights.matched_fraction > 0 or weights.missing_download
        cfg.probe = pretrained and any(isinstance(head, Probeable) for head in model.heads.values())
    attach_teacher(cfg, data, model)
    check(cfg, model)
    attach_cache(cfg, data, model)
    return data, model.to(memory_format=torch.channels_last), weights


def _rule(cfg: DictConfig) -> Callable[[int, int], int]:
    """The strategy's own number of epochs.

    Raises:
        UserError: it has none.
    """
    rule = getattr(get_object(cfg.strategy.get("_target_", "visiontune.strategies.Full")), "epochs_for", None)
    if rule is None:
        raise UserError("epochs=null is for strategy=bit_hyperrule, which counts them by the data: write epochs=30")
    return rule


def fit(
    cfg: DictConfig,
    run: RunDirectory,
    data: VisionData,
    model: FineTuner,
    checkpoint: Path | None,
    loggers: Sequence[Logger] = (),
) -> None:
    """Train, in this process.

    Args:
        loggers: of rank 0; the other ranks have none.
    """
    log_hyperparameters(loggers, flatten(cfg))
    if cfg.compile:
        model.backbone.compile()  # in place, so that the names in checkpoints stay as they are
    cache = data.wrap_loader
    with cache.open(run.path) if isinstance(cache, FrozenFeatureCache) else nullcontext():
        build_trainer(cfg, run, model, loggers).fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
