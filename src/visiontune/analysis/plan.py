"""The plan: what a run will do."""

import math
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from visiontune.analysis.tables import render
from visiontune.data import VisionData
from visiontune.frozen_features.settings import describe_cache
from visiontune.models.backbones import WeightReport
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads import Describable
from visiontune.strategies import Strategy
from visiontune.strategies.freezing import trains_parameter


def plan(cfg: DictConfig, data: VisionData, model: FineTuner, weights: WeightReport, ranks: int, where: Path) -> str:
    """The whole plan as text.

    Args:
        where: the run directory.
    """
    return "\n\n".join(
        [
            "\n".join([_data(data), *_head_notes(data, model), *_silent_heads(model)]),
            f"weights: {weights}",
            _stages(cfg, model),
            _training(cfg, data, model, ranks, where),
        ]
    )


def _data(data: VisionData) -> str:
    counts = data.counts()
    splits = [split for split in ("train", "val", "test") if data.samples(split)]
    parts = []
    for task, info in data.schema.items():
        rows: list[list[object]] = [[name, *(counts[split][task][name] for split in splits)] for name in info.classes]
        if not any(any(counts[split][task].values()) for split in splits):  # values and images are not counted
            rows = []
        if len(rows) > 20:
            rows[18:] = [[f"... {len(rows) - 18} more classes", *[""] * len(splits)]]
        labelled = [sum(s.targets.get(task) is not None for s in data.samples(split)) for split in splits]
        images = [len(data.samples(split)) for split in splits]
        counted = f"{len(info.classes)} classes" if rows else ", ".join(info.classes)
        header = ["class" if rows else "", *splits]
        rows += [["images", *images], *([["labelled", *labelled]] if labelled != images else [])]
        parts.append(render(f"data: {task}, {counted}", header, rows))
    return "\n".join([*parts, *(f"note: {note}" for note in data.notes)])


def _head_notes(data: VisionData, model: FineTuner) -> list[str]:
    """What the heads note about the labels of all splits."""
    samples = [sample for split in ("train", "val", "test") for sample in data.samples(split)]
    return [
        f"note: {note}"
        for task, head in model.heads.items()
        for note in head.data_notes(
            (data.schema[task].labels(sample.targets.get(task)) for sample in samples), f"heads.{task}"
        )
    ]


def _silent_heads(model: FineTuner) -> list[str]:
    """A note for each head whose predictions are neither described nor drawn."""
    return [
        f"note: {task}: {type(head).__name__} is not Describable: predictions.csv has only its losses, and the report "
        "shows no images of it"
        for task, head in model.heads.items()
        if not isinstance(head, Describable)
    ]


def _stages(cfg: DictConfig, model: FineTuner) -> str:
    epochs = cfg.trainer.max_epochs
    stages = model.stages()
    groups = model.param_groups()
    trains = [model.strategy.trainable(epoch) for epoch in range(epochs)]
    rows = []
    for name, module in stages:
        stage_groups = [group for group in groups if group["stage"] == name]
        lrs = sorted({group["lr"] for group in stage_groups})
        decays = sorted({group["weight_decay"] for group in stage_groups if any(p.ndim > 1 for p in group["params"])})
        rows.append(
            [
                name,
                _parameters(model.strategy, name, module),
                model.strategy.when(name) or _epochs([epoch for epoch in range(epochs) if name in trains[epoch]]),
                " to ".join(f"{lr:.2e}" for lr in dict.fromkeys([*lrs[:1], *lrs[-1:]])),
                " / ".join(f"{decay:g}" for decay in [*decays, 0]) if stage_groups else "",
            ]
        )
    total = sum(p.numel() for p in model.parameters())
    title = (
        f"model: {model.backbone.name} ({model.backbone.library}), {total:,} parameters, "
        f"BatchNorm statistics {model.strategy.batchnorm}"
    )
    return render(title, ["stage", "parameters", "trains in epochs", "learning rate", "decay (weights / rest)"], rows)


def _parameters(strategy: Strategy, stage: str, module: nn.Module) -> str:
    """`TOTAL`, or `TRAINABLE of TOTAL` if the strategy trains a part of the stage."""
    total, trainable = sum(p.numel() for p in module.parameters()), _count_trainable(strategy, stage, module)
    return f"{total:,}" if trainable == total else f"{trainable:,} of {total:,}"


def _count_trainable(strategy: Strategy, stage: str, module: nn.Module) -> int:
    """The number of parameters of the stage that the strategy can train."""
    parameters = [(part, name, p) for part in module.modules() for name, p in part.named_parameters(recurse=False)]
    return sum(p.numel() for part, name, p in parameters if trains_parameter(strategy, stage, part, name))


def trained_parameters(model: FineTuner, epochs: int) -> int:
    """The number of parameters that train in at least one epoch."""
    trains = {name for epoch in range(epochs) for name in model.strategy.trainable(epoch)}
    return sum(_count_trainable(model.strategy, name, module) for name, module in model.stages() if name in trains)


def _epochs(epochs: list[int]) -> str:
    """`1-20` for the epochs 0..19; `never` if there are none."""
    if not epochs:
        return "never"
    first, last = epochs[0] + 1, epochs[-1] + 1
    return (
        (f"{first}-{last}" if last > first else f"{first}")
        if len(epochs) == last - first + 1
        else f"{len(epochs)} of them"
    )


def _training(cfg: DictConfig, data: VisionData, model: FineTuner, ranks: int, where: Path) -> str:
    batches = data.steps_per_epoch(ranks)
    window = cfg.trainer.accumulate_grad_batches
    steps = math.ceil(batches / window)
    name, mode = model.monitor
    lines = {
        "training": f"{cfg.trainer.max_epochs} epochs of {steps} steps = {cfg.trainer.max_epochs * steps} steps, "
        f"{data.batch_size} images x {ranks} rank{'s' * (ranks > 1)} x {window} accumulated",
        "optimizer": f"{_last(cfg.optimizer._target_)}, schedule {_last(cfg.scheduler._target_)}",
        "frozen stages": describe_cache(cfg, data, model),
        "image": f"{data.channels} x {data.image_size[0]} x {data.image_size[1]}, resize {data.resize}",
        **{str(term.label): str(term) for term in model.loss_terms},
        "monitor": f"{name} ({mode}); the linear probe is the first candidate" if cfg.probe else f"{name} ({mode})",
        "device": f"{_device(cfg.trainer.accelerator)}, precision {cfg.trainer.precision}, "
        f"{data.num_workers} data-loader workers",
        "test split": "evaluated once, with the best checkpoint"
        if cfg.test and data.samples("test")
        else "not evaluated",
        "seed": str(cfg.seed),
        "run directory": str(where),
    }
    return "\n".join(f"{key + ':':<15}{value}" for key, value in lines.items())


def _device(accelerator: str) -> str:
    if accelerator not in ("auto", "gpu"):
        return accelerator
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _last(target: str) -> str:
    return target.rpartition(".")[2]
