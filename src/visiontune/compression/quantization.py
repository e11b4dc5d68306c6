"""Quantize the network of an exported graph to 8-bit integers.

Weights are symmetric with one scale per output channel; activations are asymmetric with one scale per tensor, from
calibration images (Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342). The file stores integer weights and pairs
of QuantizeLinear and DequantizeLinear around activations (QDQ), which onnxruntime fuses into integer kernels.
"""

import copy
import math
import platform
import re
from collections.abc import Collection, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visiontune.compression.biases import correct_biases, has_bias, separate_biases
from visiontune.compression.calibration import Calibration, collect_calibration
from visiontune.deployment.files import library

CONVOLUTIONS = ("Conv", "ConvTranspose")
WEIGHTED = (*CONVOLUTIONS, "Gemm", "MatMul")
# These have integer kernels, which are faster only if the inputs are already integers.
PASSING = ("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "MaxPool", "Relu", "Resize")
ONE_INPUT = ("Clip", "Resize")  # only the first input is an activation
SMALL_SIZE = 0.01  # fraction of all weights
SMALL_WORK = 0.05  # fraction of all multiply-adds


class Network:
    """The layers with weights of an exported graph. Pre-processing and decoding are not quantized.

    Attributes:
        layers: by the name of a weight, the nodes that use it, from input to output.
        sizes: by the name of a weight, its number of elements.
    """

    def __init__(self, path: Path) -> None:
        self.model = library("onnx").load(path)
        separate_biases(self.model)
        graph = self.model.graph
        self.constants = {weight.name for weight in graph.initializer}
        self.raw = [output.name for output in graph.output if output.name.startswith("raw.")]
        self.needed = set(self.raw)
        for node in reversed(graph.node):
            if self.needed.intersection(node.output):
                self.needed.update(node.input)
        self.layers: dict[str, list[Any]] = {}
        for node in graph.node:
            if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in self.constants:
                self.layers.setdefault(node.input[1], []).append(node)
        self.sizes = {w.name: math.prod(w.dims) for w in graph.initializer if w.name in self.layers}

    def last(self) -> list[str]:
        """Small linear layers that compute raw outputs: quantizing them costs the most accuracy and saves the least."""
        limit = SMALL_SIZE * sum(self.sizes.values())
        return [
            layer
            for layer, nodes in self.layers.items()
            if self.sizes[layer] <= limit and all(n.op_type == "Gemm" and n.output[0] in self.raw for n in nodes)
        ]

    def first(self, image: Tensor) -> list[str]:
        """The first layers, as many as together have few multiply-adds. Their rounding error passes through all others.

        With few channels, integers are not faster either. In MobileNetV2 and EfficientNet-Lite0 these are two layers,
        which cause half to three quarters of the error and take no more time in float. A 7 x 7 stem has more
        multiply-adds and is quantized.

        Args:
            image: see `calibrate`; any size.
        """
        measured = {  # by output of a node, the activation whose size gives the number of multiply-adds
            node.output[0]: node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
            for nodes in self.layers.values()
            for node in nodes
        }
        (activations,) = self._run(self.model, [image], sorted(set(measured.values())))
        work = dict.fromkeys(self.layers, 0)
        for layer, nodes in self.layers.items():
            for node in nodes:
                shape = activations[measured[node.output[0]]].shape
                work[layer] += self.sizes[layer] * math.prod(shape[2:] if node.op_type in CONVOLUTIONS else shape[:-1])
        limit = SMALL_WORK * sum(work.values())
        return [layer for layer, total in zip(work, accumulate(work.values()), strict=True) if total <= limit]

    def quantizable(self, layers: Collection[str]) -> list[Any]:
        """The nodes of `layers`, and the nodes in PASSING between them."""
        weighted = {node.name for layer in layers for node in self.layers[layer]}
        nodes, integers = [], set()
        for node in self.model.graph.node:
            is_passing = (
                node.op_type in PASSING
                and self.needed.issuperset(node.output)
                and all(name in integers for name in self._activations(node))
            )
            if node.name in weighted or is_passing:
                nodes.append(node)
                if is_passing or node.op_type in CONVOLUTIONS:
                    integers.update(node.output)
        return nodes

    def _activations(self, node: Any) -> list[str]:
        inputs = node.input[:1] if node.op_type in ONE_INPUT else node.input
        return [name for name in inputs if name and name not in self.constants]

    def calibrate(self, images: Iterable[Tensor], method: str) -> Calibration:
        """Collect the ranges of activations.

        Args:
            images: ``(C, H, W)`` uint8, original images.
            method: `minmax`: the extremes over all images; `mse`: the part of that range with the smallest error of
                rounding and clipping.
        """
        tensors = {name for node in self.quantizable(self.layers) for name in (*self._activations(node), *node.output)}
        inputs = {
            layer: [node.input[0] for node in nodes]
            for layer, nodes in self.layers.items()
            if all(map(has_bias, nodes))
        }
        return collect_calibration(
            self._run(self.model, images, sorted(tensors.union(*inputs.values()))), tensors, inputs, method
        )

    def quantized(
        self, calibration: Calibration, layers: Collection[str], reduce_range: bool, correct: bool = True
    ) -> Any:
        """A copy of the graph with `layers` quantized.

        Args:
            reduce_range: use 7-bit weights.
            correct: see `correct_biases`.
        """
        library("onnxruntime")
        from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

        nodes = self.quantizable(layers)
        quantizer = QDQQuantizer(
            copy.deepcopy(self.model),
            per_channel=True,
            reduce_range=reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(
                CalibrationMethod.MinMax,
                {name: (np.float32(low), np.float32(high)) for name, (low, high) in calibration.ranges.items()},
            ),
            nodes_to_quantize=[node.name for node in nodes],
            nodes_to_exclude=[],
            op_types_to_quantize=[*WEIGHTED, *PASSING],
            # Kernels of these compute floats just as fast, and the outputs of the last layer need no rounding.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        quantizer.quantize_model()
        model = quantizer.model.model
        if correct:
            correct_biases(model, self.model, calibration.means)
        return _strip_metadata(model)

    def sensitivities(self, calibration: Calibration, images: list[Tensor], reduce_range: bool) -> dict[str, float]:
        """By layer, the error of the raw outputs if only this layer is quantized, see `_error`."""
        truth = list(self._run(self.model, images, self.raw))
        errors = {}
        for layer in self.layers:
            outputs = self._run(self.quantized(calibration, [layer], reduce_range), images, self.raw)
            errors[layer] = sum(_error(a, b) for a, b in zip(outputs, truth, strict=True))
        return errors

    @staticmethod
    def _run(model: Any, images: Iterable[Tensor], tensors: list[str]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the named tensors of a graph for each image."""
        onnx, onnxruntime = library("onnx"), library("onnxruntime")
        model = copy.deepcopy(model)
        known = {output.name for output in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in known)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for image in images:
            yield dict(zip(tensors, session.run(tensors, {name: image[None].numpy()}), strict=True))


def _error(outputs: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> float:
    """Squared error / squared norm, summed over the outputs."""
    return sum(
        float(np.square(outputs[name] - value).sum() / max(np.square(value).sum(), 1e-12))
        for name, value in truth.items()
        if np.issubdtype(value.dtype, np.floating)
    )


def _strip_metadata(model: Any) -> Any:
    """Remove what onnxruntime does not need, up to a sixth of a quantized file.

    These are the compiler's notes on each node, and zero points of weights and biases that are 0, the default.
    """
    graph, values = model.graph, library("onnx").numpy_helper.to_array
    constants = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if (
            node.op_type == "DequantizeLinear"
            and node.input[0] in constants
            and not values(constants[node.input[2]]).any()
        ):
            del node.input[2]
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for weight in [weight for name, weight in constants.items() if name not in read]:
        graph.initializer.remove(weight)
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")
    graph.ClearField("value_info")
    return model


def saturates() -> bool:
    """Whether this CPU adds pairs of 8-bit products in 16 bits, which overflow: x86 without VNNI."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return not re.search(r"\bavx(512)?_vnni\b", Path("/proc/cpuinfo").read_text())
    except OSError:  # not Linux: assume the worst
        return True
