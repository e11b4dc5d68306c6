"""Build the model of a run and fit it; every rank of a run builds the same model."""

from pathlib import Path

import lightning as L
import torch
from omegaconf import DictConfig
from torch import nn

from visiontune.data import VisionData
from visiontune.data.shared_memory import shared_memory_errors
from visiontune.errors import UserError
from visiontune.frozen_features.settings import attach_cache, cache_files
from visiontune.loggers.hyperparameters import flatten
from visiontune.loggers.log import log_hyperparameters
from visiontune.models.backbones import WeightReport
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.training.build import build_data, build_finetuner, check
from visiontune.training.load_weights import load_weights
from visiontune.training.memory import keep_allocated
from visiontune.training.teacher import attach_teacher


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch. Also let the process keep freed memory, which is faster."""
    keep_allocated()
    L.seed_everything(seed, verbose=False)


def build_model(
    cfg: DictConfig, data: VisionData, download: bool = True, load: bool = True
) -> tuple[FineTuner, WeightReport]:
    """Build the model of a run with its weights, its teacher and the cache of its frozen stages.

    Args:
        download: if False, no weights are downloaded (for the plan).
        load: if False, no weights are loaded, since a checkpoint is loaded next.

    Raises:
        UserError: the config or the data is wrong; nothing has been started.
    """
    data.steps_per_epoch(cfg.trainer.devices)  # raises if the data is too small for this number of ranks
    epochs = cfg.get("planned_epochs", cfg.trainer.max_epochs)
    model, weights = build_finetuner(cfg, data.schema, epochs, download, load)
    for task, head in model.heads.items():
        if data.batch_size < head.min_batch_size:
            raise UserError(
                f"data.batch_size={data.batch_size}: the BatchNorm of heads.{task} needs {head.min_batch_size} images "
                f"to train; write data.batch_size={head.min_batch_size}, or heads.{task}.norm=group"
            )
        if str(cfg.trainer.precision).startswith("16") and not head.float16:
            raise UserError(
                f"trainer.precision={cfg.trainer.precision}: the losses of heads.{task} overflow in float16; write "
                "trainer.precision=bf16-mixed, or 32-true"
            )
        for split in ("train", "val"):
            targets = [sample.targets.get(task) for sample in data.samples(split)]
            if all(target is None for target in targets):
                raise UserError(
                    f"the {split} split has no label of {task}: give it some with other splits, such as "
                    f"data.split_ratio={{train: 0.7, val: 0.15, test: 0.15}}, or leave {task} out of heads"
                )
            if split == "train":
                head.fit_targets(targets)
    if load and cfg.weights_from is not None:
        weights = load_weights(model, RunDirectory.open(cfg.weights_from), cfg.backbone.min_matched)
    for task in weights.heads:
        model.heads[task].is_pretrained = True
    if load:
        _check_trained_layers(cfg, model, weights)
    attach_teacher(cfg, data, model)
    check(cfg, model)
    attach_cache(cfg, data, model)
    return model.to(memory_format=torch.channels_last), weights


def _check_trained_layers(cfg: DictConfig, model: FineTuner, weights: WeightReport) -> None:
    """Refuse a strategy that trains nothing of the backbone though it should, or freezes random layers of a head.

    Raises:
        UserError: the message says which.
    """
    strategy, backbone = model.strategy, model.backbone
    name = cfg.strategy._target_.rpartition(".")[2]
    frozen_norm = cfg.backbone.get("norm") == "frozen"
    if frozen_norm and strategy.batchnorm == "train":
        raise UserError(
            "strategy.batchnorm=train: backbone.norm=frozen keeps the statistics of its BatchNorm; leave out "
            "strategy.batchnorm, or write backbone.norm=batch"
        )
    if not any(strategy.trains_parameter(*place) for place in _parameters(backbone)):
        reason, option = (", whose BatchNorm is frozen", "backbone.norm=batch, or ") if frozen_norm else ("", "")
        raise UserError(
            f"the strategy {name} trains no parameter of the backbone {backbone.name}{reason}: write {option}"
            "strategy=linear_probe to train the heads alone"
        )
    for task, head in model.heads.items():
        if task not in weights.heads and not all(strategy.trains_head_parameter(*place) for place in _parameters(head)):
            raise UserError(
                f"the strategy {name} trains only the layers of heads.{task} that depend on classes, and its other "
                "layers begin random: write strategy=linear_probe, which trains the whole head, or begin from a "
                "pretrained head with pretrained=NAME or weights_from=RUN"
            )


def _parameters(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """The owner and the name of each parameter."""
    return [(part, name) for part in module.modules() for name, _ in part.named_parameters(recurse=False)]


def prepare(cfg: DictConfig, download: bool = True, load: bool = True) -> tuple[VisionData, FineTuner, WeightReport]:
    """Build the data and the model of a run as `train` does, without a Trainer."""
    seed_everything(cfg.seed)
    data = build_data(cfg)
    model, weights = build_model(cfg, data, download, load)
    return data, model, weights


def fit(
    cfg: DictConfig, run: RunDirectory, trainer: L.Trainer, model: FineTuner, data: VisionData, checkpoint: Path | None
) -> None:
    """Fit in this process, as a single rank or as one of several.

    Args:
        checkpoint: the checkpoint to resume from.
    """
    log_hyperparameters(trainer.loggers, flatten(cfg))
    with cache_files(data, run.path), shared_memory_errors():
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
