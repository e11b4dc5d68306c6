"""A run whose model is a file that computes on integers of 8 bits."""

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from omegaconf import DictConfig, open_dict
from torch import Tensor

from visiontune import deployment
from visiontune.compression.calibration import CALIBRATIONS
from visiontune.compression.quantization import Network, saturates
from visiontune.compression.step import Step, concluded, config_of, derived, lost
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

PROBED = 8  # images that a layer's sensitivity is measured on


class Int8(Step):
    """Static quantization after training, for processors.

    Where the monitored metric does not hold on the validation split, layers stay in float: those first whose rounding
    changes the raw outputs most for each weight, so that the file stays small.

    Args:
        max_drop: points that the metric may fall, see `lost`.
        images: of the training split, without augmentation, that activations' ranges are taken of.
        calibration: see `Network.calibrate`.
        reduce_range: weights of 7 bits, for x86 processors without VNNI, whose sums of products overflow; auto: if
            this is one.
        float_layers: names of weights that stay in float from the beginning, beside `Network.first` and `last`.

    Raises:
        UserError: an argument without meaning, a library that is missing.
    """

    adjustable = ("max_drop",)

    def __init__(
        self,
        max_drop: float = 1.0,
        pictures: int = 200,
        calibration: str = "mse",
        reduce_range: bool | str = "auto",
        float_layers: Collection[str] = (),
    ) -> None:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            library(name)
        if calibration not in CALIBRATIONS:
            raise UserError(f"calibration={calibration} of int8: write one of {', '.join(CALIBRATIONS)}")
        if pictures < 1 or max_drop < 0:
            raise UserError(f"pictures={pictures} max_drop={max_drop} of int8: write 1 or more, and 0 or more")
        if reduce_range not in ("auto", True, False):
            raise UserError(f"reduce_range={reduce_range} of int8: write auto, true or false")
        self.max_drop, self.pictures, self.calibration = max_drop, pictures, calibration
        self.reduce_range = saturates() if reduce_range == "auto" else bool(reduce_range)
        self.float_layers = list(float_layers)

    def check(self, cfg: DictConfig) -> DictConfig:
        if cfg.get("backend"):
            raise UserError("the run is quantized already: int8 is the last step of a recipe, and once")
        made = cfg.copy()
        with open_dict(made):
            made.backend = "onnx"
        return made

    def apply(self, source: RunDirectory, output: Path) -> RunDirectory:
        cfg = config_of(source)
        run = derived(source, self.check(cfg), output)
        shared = run.checkpoints / "best.ckpt"
        try:
            os.link(source.checkpoint("best"), shared)
        except OSError:  # another disk
            shutil.copy(source.checkpoint("best"), shared)
        run.exports.mkdir()
        shutil.copy(Path(deployment.__file__).with_name("run_onnx.py"), run.exports)
        with logging_to(run.log):
            data = build_data(cfg)
            data.assign_as(run.splits)
            graph, model = build_graph(source, cfg)
            self._quantize(graph, model, data, run, cfg)
        concluded(run)
        return run

    def _quantize(self, graph: Graph, model: FineTuner, data: VisionData, run: RunDirectory, cfg: DictConfig) -> None:
        """Write the file, with as few layers in float as the metric allows."""
        exact, path = run.exports / "float.onnx", run.exports / NAMES["onnx"]
        write(graph, exact, "onnx")
        verify(
            OnnxFile(exact), model, map(data.to_network, data.eval_loader("val", at_most=PROBED, original_images=True))
        )
        network = Network(exact)
        if unknown := set(self.float_layers) - set(network.layers):
            raise UserError(f"float_layers of int8: {unknown.pop()} is none of {', '.join(network.layers)}")
        calibration = network.calibrate(_pictures(data, self.pictures), self.calibration)
        log.info(
            f"{len(network.layers)} layers, weights of {'7 bits (no VNNI here)' if self.reduce_range else '8 bits'}, "
            f"ranges by {self.calibration} of up to {self.pictures} training images"
        )
        first = network.first(next(_pictures(data, 1)))
        floats = list(dict.fromkeys([*self.float_layers, *network.last(), *first]))
        before = evaluate_run(run, cfg, model, data, "val")
        order: list[str] = []
        count = 0
        while True:
            kept = [*floats, *order[:count]]
            layers = [layer for layer in network.layers if layer not in kept]
            library("onnx").save(network.quantized(calibration, layers, self.reduce_range), path)
            after = evaluate_run(run, self.check(cfg), model, data, "val")
            name, mode = model.monitor
            loss = lost(before.metrics[name], after.metrics[name], mode)
            log.info(_said(name, before, after, loss, kept))
            if loss <= self.max_drop:
                break
            if not order:
                hurt = network.sensitivities(calibration, list(_pictures(data, PROBED)), self.reduce_range)
                order = _within_half(sorted(layers, key=lambda layer: -hurt[layer] / network.sizes[layer]), network)
            if count == len(order):
                raise RunError(
                    f"int8 costs {loss:.2f} points of {model.monitor[0]}, with half of the weights in float too: take "
                    f"ranges by recipe.steps.int8.calibration=minmax, or allow more than max_drop={self.max_drop:g}"
                )
            count = min(max(1, 2 * count), len(order))
        exact.unlink()


def _within_half(layers: list[str], network: Network) -> list[str]:
    """Of them, one after the other, those that fit into half of all weights."""
    kept, room = [], sum(network.sizes.values()) / 2
    for layer in layers:
        if network.sizes[layer] <= room:
            kept.append(layer)
            room -= network.sizes[layer]
    return kept


def _pictures(data: VisionData, count: int) -> Iterator[Tensor]:
    """Of the training split, evenly spread, as they are stored."""
    for batch in data.eval_loader("train", at_most=count, original_images=True):
        yield from batch["original_image"]


def _said(name: str, before: Evaluation, after: Evaluation, lost: float, kept: list[str]) -> str:
    same = sum(a.prediction == b.prediction for a, b in zip(before.rows, after.rows, strict=True))
    return (
        f"{name} {before.metrics[name]:.4f} -> {after.metrics[name]:.4f} (lost {lost:.2f}), {same} of "
        f"{len(after.rows)} predictions in the same words" + (f", in float: {', '.join(kept)}" if kept else "")
    )
