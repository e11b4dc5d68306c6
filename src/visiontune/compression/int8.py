"""Quantize a run: the model becomes an ONNX file that computes with 8-bit integers."""

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from visiontune import deployment
from visiontune.compression.calibration import CALIBRATIONS
from visiontune.compression.quantization import Network, saturates
from visiontune.compression.step import Step, derive_run, finalize_run, metric_drop, source_config
from visiontune.config.derive import derive
from visiontune.data import VisionData
from visiontune.deployment.evaluation import evaluate_run
from visiontune.deployment.files import NAMES, OnnxFile, library, write
from visiontune.deployment.graph import Graph, build_graph
from visiontune.deployment.verification import verify
from visiontune.errors import RunError, UserError
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import log, logging_to
from visiontune.training.build import build_data
from visiontune.training.evaluation import Evaluation

SENSITIVITY_IMAGES = 8  # a layer's sensitivity is measured on these


class Int8(Step):
    """Static post-training quantization for CPUs.

    If the monitored metric drops by more than `max_drop` on the validation split, more layers are kept in float. The
    first are those whose rounding changes the raw outputs most per weight, so that the file stays small.

    Args:
        max_drop: allowed drop of the metric in points, see `metric_drop`.
        images: number of training images, without augmentation, that give the ranges of activations.
        calibration: see `Network.calibrate`.
        reduce_range: use 7-bit weights, for x86 CPUs without VNNI, where sums overflow; `auto` asks the CPU.
        float_layers: names of weights that always stay in float, in addition to `Network.first` and `Network.last`.

    Raises:
        UserError: an argument is out of range, or a library is missing.
    """

    adjustable = ("max_drop",)

    def __init__(
        self,
        max_drop: float = 1.0,
        images: int = 200,
        calibration: str = "mse",
        reduce_range: bool | str = "auto",
        float_layers: Collection[str] = (),
    ) -> None:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            library(name)
        if calibration not in CALIBRATIONS:
            raise UserError(f"calibration={calibration} of int8: write one of {', '.join(CALIBRATIONS)}")
        if images < 1 or max_drop < 0:
            raise UserError(
                f"images={images} max_drop={max_drop} of int8: expected 1 or more images and a max_drop of 0 or more; "
                "write images=200 max_drop=1"
            )
        if reduce_range not in ("auto", True, False):
            raise UserError(f"reduce_range={reduce_range} of int8: write auto, true or false")
        self.max_drop, self.images, self.calibration = max_drop, images, calibration
        self.reduce_range = saturates() if reduce_range == "auto" else bool(reduce_range)
        self.float_layers = list(float_layers)

    def check(self, cfg: DictConfig) -> DictConfig:
        if cfg.get("backend"):
            raise UserError("the run is already quantized: use int8 once, as the last step of a recipe")
        return derive(cfg, {"backend": "onnx"})

    def apply(self, source: RunDirectory, output: Path) -> RunDirectory:
        cfg = source_config(source)
        run = derive_run(source, self.check(cfg), output)
        checkpoint = run.checkpoints / "best.ckpt"
        try:
            os.link(source.checkpoint("best"), checkpoint)
        except OSError:  # no hard link across disks
            shutil.copy(source.checkpoint("best"), checkpoint)
        run.exports.mkdir()
        shutil.copy(Path(deployment.__file__).with_name("run_onnx.py"), run.exports)
        with logging_to(run.log):
            data = build_data(cfg)
            data.assign_as(run.splits)
            graph, model = build_graph(source, cfg)
            self._quantize(graph, model, data, run, cfg)
        finalize_run(run)
        return run

    def _quantize(self, graph: Graph, model: FineTuner, data: VisionData, run: RunDirectory, cfg: DictConfig) -> None:
        """Write the ONNX file with as few layers in float as `max_drop` allows."""
        float_file, path = run.exports / "float.onnx", run.exports / NAMES["onnx"]
        write(graph, float_file, "onnx")
        verify(
            OnnxFile(float_file),
            model,
            map(data.to_network, data.eval_loader("val", at_most=SENSITIVITY_IMAGES, original_images=True)),
        )
        network = Network(float_file)
        if unknown := set(self.float_layers) - set(network.layers):
            raise UserError(
                f"float_layers of int8: unknown layer {unknown.pop()}; write names from {', '.join(network.layers)}"
            )
        calibration = network.calibrate(_training_images(data, self.images), self.calibration)
        log.info(
            f"{len(network.layers)} layers, weights of {'7 bits (no VNNI here)' if self.reduce_range else '8 bits'}, "
            f"ranges by {self.calibration} from up to {self.images} training images"
        )
        first = network.first(next(_training_images(data, 1)))
        always_float = list(dict.fromkeys([*self.float_layers, *network.last(), *first]))
        before = evaluate_run(run, cfg, model, data, "val")
        order: list[str] = []
        count = 0
        while True:
            in_float = [*always_float, *order[:count]]
            layers = [layer for layer in network.layers if layer not in in_float]
            library("onnx").save(network.quantized(calibration, layers, self.reduce_range), path)
            after = evaluate_run(run, self.check(cfg), model, data, "val")
            name, mode = model.monitor
            drop = metric_drop(before.metrics[name], after.metrics[name], mode)
            log.info(_describe(name, before, after, drop, in_float))
            if drop <= self.max_drop:
                break
            if not order:
                images = list(_training_images(data, SENSITIVITY_IMAGES))
                errors = network.sensitivities(calibration, images, self.reduce_range)
                order = sorted(layers, key=lambda layer: -errors[layer] / network.sizes[layer])
                order = _fit_half_of_weights(order, network)
            if count == len(order):
                raise RunError(
                    f"int8 loses {drop:.2f} points of {model.monitor[0]} even with half of the weights in float: write "
                    f"recipe.steps.int8.calibration=minmax, or a max_drop above {self.max_drop:g}"
                )
            count = min(max(1, 2 * count), len(order))
        float_file.unlink()


def _fit_half_of_weights(layers: list[str], network: Network) -> list[str]:
    """The first layers that together have at most half of all weights; a layer that does not fit is skipped."""
    selection, remaining = [], sum(network.sizes.values()) / 2
    for layer in layers:
        if network.sizes[layer] <= remaining:
            selection.append(layer)
            remaining -= network.sizes[layer]
    return selection


def _training_images(data: VisionData, count: int) -> Iterator[Tensor]:
    """Original images of the training split, evenly spread over it."""
    for batch in data.eval_loader("train", at_most=count, original_images=True):
        yield from batch["original_image"]


def _describe(name: str, before: Evaluation, after: Evaluation, drop: float, in_float: list[str]) -> str:
    unchanged = sum(a.prediction == b.prediction for a, b in zip(before.rows, after.rows, strict=True))
    return (
        f"{name} {before.metrics[name]:.4f} -> {after.metrics[name]:.4f} (lost {drop:.2f}), {unchanged} of "
        f"{len(after.rows)} predictions unchanged" + (f", in float: {', '.join(in_float)}" if in_float else "")
    )
