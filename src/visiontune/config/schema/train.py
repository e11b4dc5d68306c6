"""Keys of train.yaml itself."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator, Field

from visiontune.config.schema.data import Augment, Data
from visiontune.config.schema.training import Optimizer, Scheduler, Strategy, Technique, Trainer
from visiontune.config.schema.types import (
    Count,
    Epochs,
    Flag,
    Fraction,
    Int,
    Names,
    Node,
    NonEmpty,
    NotNegative,
    Number,
    Positive,
    PositiveFraction,
    Section,
    Text,
    Texts,
    key,
)


class Checkpoints(Section):
    every_steps: Count | None = key("a number of optimizer steps, 1 or more, or null", 500)
    every_minutes: Positive | None = key("a number of minutes above 0, or null", 10)
    pause_after: Count | None = key("a number of epochs, 1 or more, or null", 5)


class Distill(Section):
    teacher: NonEmpty | None = key("a run directory, or null", "logs/photos/2026-11-22_09-15-02-k3f9")
    weight: Fraction = key("a fraction from 0 to 1", 0.5)
    temperature: Positive = key("a number above 0", 4.0)
    features: NotNegative = key("a number, 0 or more", 1.0)
    sha256: Text | None = key("the SHA-256 of a checkpoint, or null", "null")


class FrozenFeatures(Section):
    cache: Annotated[Literal["none", "memory", "disk"], BeforeValidator(lambda value: value or "none")] = key(
        "none, memory or disk", "memory"
    )
    views: Count | None = key("a number of views, 1 or more, or null", 2)
    bits: Literal[16, 32] = key("16 or 32", 16)
    max_gb: Positive = key("a size in GB above 0", 4)


class Search(Section):
    candidates: Annotated[Texts, Field(min_length=1)] = key("a list of strategies", "[gradual_unfreeze,full]")
    epochs: PositiveFraction = key("a fraction above 0 and at most 1", 0.15)
    images: PositiveFraction = key("a fraction above 0 and at most 1", 0.5)
    lr_range_test: Flag | Literal["auto"] = key("true, false or auto", "auto")


class Pruning(Section):
    min_epochs: Count | Literal["auto"] = key("a number of epochs, 1 or more, or auto", 2)
    factor: Annotated[Int, Ge(2)] = key("a whole number, 2 or more", 3)
    percentile: Annotated[Number, Gt(0), Lt(100)] = key("a number above 0 and below 100", 25)
    startup_jobs: Count = key("a number of jobs, 1 or more", 5)


class Sweep(Section):
    sampler: Literal["grid", "random", "tpe", "cmaes"] = key("grid, random, tpe or cmaes", "tpe")
    trials: Count = key("a number of suggestions, 1 or more", 50)
    objectives: list[NonEmpty] = key("a list of metrics and costs", "[val/classification/accuracy,parameters]")
    zip: list[Annotated[list[Text], Field(min_length=2)]] = key(
        "lists of two keys or more", "[[optimizer.lr,data.batch_size]]"
    )
    start: list[dict[str, Any]] = key("a list of mappings of keys to values", "[{optimizer.lr: 1e-3}]")
    pruner: Literal["none", "halving", "hyperband", "median", "percentile"] = key(
        "none, halving, hyperband, median or percentile", "halving"
    )
    pruning: Pruning = key("a mapping", "{min_epochs: 2}")
    workers: Annotated[Int, Ge(0)] | Literal["auto"] = key("a number of jobs, 0 or more, or auto", 2)
    max_epochs: Count | None = key("a number of epochs, 1 or more, or null", 200)
    max_hours: Positive | None = key("a number of hours above 0, or null", 8)
    threads: Count | Literal["auto"] = key("a number of threads, 1 or more, or auto", 1)
    check: Flag = key("true or false", "false")
    fail_fast: Flag = key("true or false", "true")
    max_retries: Annotated[Int, Ge(0)] = key("a whole number, 0 or more", 2)
    storage: NonEmpty | None = key("the address of a database, or null", "${oc.env:SWEEP_STORAGE}")
    allow_changed: Flag = key("true or false", "true")
    submit: Flag = key("true or false", "true")


class Launcher(Node):
    workers: Count = key("a number of workers, 1 or more", 8)
    cpus: Count = key("a number of cores, 1 or more", 8)
    gpus: Annotated[Int, Ge(0)] | Literal["auto"] = key("a number of GPUs, 0 or more, or auto", 1)
    memory_gb: Positive | None = key("a number of GB above 0, or null", 32)
    hours: Positive = key("a number of hours above 0", 12)
    partition: Text | None = key("the name of a partition, or null", "gpu")
    options: dict[str, Any] | None = key("a mapping of options of sbatch, or null", "{account: vision}")
    setup: Texts = key("a list of shell commands", "[module load cuda]")
    cluster: Literal["slurm", "local"] = key("slurm or local", "local")
    address: Text = key("local, auto or HOST:PORT", "auto")


class Paths(Section):
    logs: NonEmpty = key("a folder", "logs")


class Backbone(Section):
    name: Text = key("the name of a network", "resnet50")
    weights: Text | None = key("auto, default, null, a path or package:NAME", "auto")
    library: Literal["auto", "torchvision", "timm", "transformers", "small_cnn"] = key(
        "auto, torchvision, timm, transformers or small_cnn", "auto"
    )
    min_matched: Fraction = key("a fraction from 0 to 1", 0.5)


class Pretrained(Section):
    """A whole model, and what is known about its weights."""

    name: Text = key("the name of a model in its library", "fasterrcnn_resnet50_fpn")
    library: Literal["torchvision", "transformers"] = key("torchvision or transformers", "torchvision")
    repository: Text | None = key("the name of a repository of Hugging Face, or null", "PekingU/rtdetr_v2_r18vd")
    task: Text = key("the name of a head", "detection")
    backbone: Text = key("the name of a network", "resnet50")
    fallback_task: Text | None = key("the name of a head, or null", "detection")
    weights: Text | None = key("default, null or a path", "default")
    load: Literal["all", "backbone"] = key("all or backbone", "backbone")
    map: Names = key("a mapping of classes to names in the weights, or null", "{auto: car}")
    classes: Texts | None = key("a list of names, or null", "[background,cat,dog]")
    min_matched: Fraction = key("a fraction from 0 to 1", 0.9)
    source: Text = key("an address", "https://docs.pytorch.org/vision/stable/models.html")
    license: Text = key("the licence of the weights", "BSD-3-Clause")
    dataset: Text = key("the data that the weights were trained on", "COCO 2017")
    score: Text = key("the published score", "37.0 box mAP on COCO val2017")
    size: Text = key("the size of the download", "160 MB")


class Train(Section):
    """The whole config of `visiontune train`."""

    name: NonEmpty | None = key("a name, or null", "birds_v2")
    epochs: Epochs | None = key("a whole number from 1 to 1000000", 30)
    seed: Annotated[Int, Ge(0), Le(2**32 - 1)] = key(f"a whole number from 0 to {2**32 - 1}", 42)
    tags: Texts = key("a list of words", "[baseline,v2]")
    note: Text | None = key("a text, or null", "first try")
    run_dir: NonEmpty | None = key("a folder, or null", "runs/first")
    sweep_dir: NonEmpty | None = key("a folder", "sweeps/first")
    run: NonEmpty | None = key("a run directory, or null", "logs/digits/2026-11-22_09-15-02-k3f9")
    weights_from: NonEmpty | None = key("a run directory, or null", "logs/digits/2026-11-22_09-15-02-k3f9")
    trust: Flag = key("true or false", "true")
    test: Flag | Literal["auto"] = key("true, false or auto", "true")
    monitor: Text | None = key("the name of a metric, or null", "val/classification/f1")
    probe: Flag | Literal["auto"] = key("true, false or auto", "auto")
    on_nonfinite: Literal["error", "skip"] = key("error or skip", "skip")
    l1: NotNegative = key("a number, 0 or more", 1e-5)
    loss_weights: Literal["learned"] | dict[str, NotNegative] = key(
        "learned, or a mapping of heads to numbers", "learned"
    )
    compile: Flag = key("true or false", "true")
    checkpoints: Checkpoints = key("a mapping", "{every_steps: 500}")
    distill: Distill = key("a mapping", "{teacher: null}")
    frozen_features: FrozenFeatures = key("a mapping", "{cache: none}")
    sweep: Sweep | None = key("the name of a sweep, or a mapping", "lr")
    launcher: Launcher | None = key("local, slurm or ray", "slurm")
    search: Search | None = key("none or strategy", "strategy")
    technique: Technique = key("a list of techniques", "[ema]")
    strategy: Strategy = key("the name of a strategy", "full")
    optimizer: Optimizer = key("the name of an optimizer", "adamw")
    scheduler: Scheduler = key("the name of a scheduler", "cosine")
    trainer: Trainer = key("the name of a trainer", "cpu")
    backbone: Backbone = key("the name of a backbone", "resnet50")
    pretrained: Pretrained | None = key("the name of a pretrained model, or none", "fasterrcnn_resnet50_fpn")
    heads: Annotated[dict[str, Node], Field(min_length=1)] = key(
        "the name of a head, or a list of heads", "classification"
    )
    data: Data = key("the name of a data set", "image_folder")
    augment: Augment = key("the name of an augmentation", "standard")
    callbacks: dict[str, Any] = key("a mapping of names to callbacks", "default")
    logger: dict[str, Any] = key("the name of a logger, or a list of loggers", "tensorboard")
    paths: Paths = key("a mapping", "default")
