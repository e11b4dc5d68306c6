"""Keys of evaluate.yaml, predict.yaml, export.yaml, compress.yaml and fetch.yaml."""

from typing import Any, Literal

from visiontune.config.schema.train import Backbone, Pretrained
from visiontune.config.schema.types import Count, Flag, Names, NonEmpty, Section, key

RUN = "logs/digits/2026-11-22_09-15-02-k3f9"


class _RunVerb(Section):
    """Keys of every verb that takes a run."""

    run: NonEmpty = key("a run directory", RUN)
    output: NonEmpty | None = key("a folder, or null", "results")
    trust: Flag = key("true or false", "true")
    debug: Flag = key("true or false", "true")


class Evaluate(_RunVerb):
    split: Literal["train", "val", "test", "all"] = key("train, val, test or all", "val")
    checkpoint: NonEmpty = key("best, last or a path", "best")
    backend: NonEmpty | None = key("onnx, torch_export, a path or null", "onnx")
    data_root: NonEmpty | None = key("a folder, or null", "photos")
    data_keys: dict[str, Any] | None = key("a mapping of keys of the group data, or null", "{images: photos}")
    classes: Names = key("a mapping of class names, or null", "{puppy: dog}")
    report: Flag = key("true or false", "true")
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = key("auto, cpu, gpu or mps", "cpu")


class Predict(_RunVerb):
    input: NonEmpty = key("an image, a video or a folder", "photos")
    checkpoint: NonEmpty = key("best, last or a path", "best")
    backend: NonEmpty | None = key("onnx, torch_export, a path or null", "onnx")
    batch_size: Count = key("a whole number, 1 or more", 32)
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = key("auto, cpu, gpu or mps", "cpu")
    images: Flag = key("true or false", "false")


class Export(_RunVerb):
    format: Literal["onnx", "torch_export"] = key("onnx or torch_export", "onnx")
    checkpoint: NonEmpty | None = key("best, last, a path or null", "best")
    split: Literal["train", "val", "test"] = key("train, val or test", "val")
    data_root: NonEmpty | None = key("a folder, or null", "photos")
    images: Count = key("a number of images, 1 or more", 16)


class Compress(_RunVerb):
    threads: Count = key("a number of threads, 1 or more", 1)
    compile: Flag = key("true or false", "false")


class Fetch(Section):
    pretrained: Pretrained | None = key("the name of a pretrained model, or none", "fasterrcnn_resnet50_fpn")
    backbone: Backbone = key("the name of a backbone", "resnet50")
    output: NonEmpty = key("a folder", "weights/detector")
    debug: Flag = key("true or false", "true")
