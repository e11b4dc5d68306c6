"""The network of an exported graph in integers of 8 bits.

Weights are symmetric with a scale for each output channel, activations asymmetric with one scale a tensor, from what
calibration images gave (Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342). The file has integers for weights,
and pairs of QuantizeLinear and DequantizeLinear around activations (QDQ), which onnxruntime joins to kernels on
integers.
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

from visiontune.compression.biases import biased, biases_apart, correct_biases
from visiontune.compression.calibration import Calibration, calibration_of
from visiontune.deployment.files import library

CONVOLUTIONS = ("Conv", "ConvTranspose")
WEIGHTED = (*CONVOLUTIONS, "Gemm", "MatMul")
# With kernels on integers, and worth one only where integers come in.
PASSING = ("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "MaxPool", "Relu", "Resize")
ONE_INPUT = ("Clip", "Resize")  # whose further inputs are no activations
LITTLE = 0.01  # of all weights
LITTLE_WORK = 0.05  # of all multiply-adds


class Network:
    """What an exported graph computes with weights.

    What brings the image to the network's input, and the decoding of raw outputs, stay as they are.

    Attributes:
        layers: by the name of a weight, the nodes that it belongs to, from input to output.
        sizes: by the same names, how many numbers it has.
    """

    def __init__(self, path: Path) -> None:
        self.model = library("onnx").load(path)
        biases_apart(self.model)
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
        """Linear layers that give raw outputs and have few weights: integers cost most there, and bring least."""
        most = LITTLE * sum(self.sizes.values())
        return [
            layer
            for layer, nodes in self.layers.items()
            if self.sizes[layer] <= most and all(n.op_type == "Gemm" and n.output[0] in self.raw for n in nodes)
        ]

    def first(self, picture: Tensor) -> list[str]:
        """The layers at the beginning that together have few multiply-adds: their rounding goes through all others.

        On few channels integers are not faster either: in MobileNetV2 and EfficientNet-Lite0 these two layers make up
        half to three quarters of the error, and cost no time in float. A stem of 7 x 7 has more to do: it is quantized.

        Args:
            image: see `calibrate`; its size does not matter.
        """
        places = {
            node.output[0]: node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
            for nodes in self.layers.values()
            for node in nodes
        }
        (found,) = self._run(self.model, [picture], sorted(set(places.values())))
        work = dict.fromkeys(self.layers, 0)
        for layer, nodes in self.layers.items():
            for node in nodes:
                shape = found[places[node.output[0]]].shape
                work[layer] += self.sizes[layer] * math.prod(shape[2:] if node.op_type in CONVOLUTIONS else shape[:-1])
        most = LITTLE_WORK * sum(work.values())
        return [layer for layer, so_far in zip(work, accumulate(work.values()), strict=True) if so_far <= most]

    def quantizable(self, layers: Collection[str]) -> list[Any]:
        """The nodes of `layers`, and those that only pass on what they give."""
        chosen = {node.name for layer in layers for node in self.layers[layer]}
        found, integers = [], set()
        for node in self.model.graph.node:
            passing = (
                node.op_type in PASSING
                and self.needed.issuperset(node.output)
                and all(name in integers for name in self._activations(node))
            )
            if node.name in chosen or passing:
                found.append(node)
                if passing or node.op_type in CONVOLUTIONS:
                    integers.update(node.output)
        return found

    def _activations(self, node: Any) -> list[str]:
        inputs = node.input[:1] if node.op_type in ONE_INPUT else node.input
        return [name for name in inputs if name and name not in self.constants]

    def calibrate(self, pictures: Iterable[Tensor], method: str) -> Calibration:
        """
        Args:
            images: ``(C, H, W)`` uint8, as stored.
            method: `minmax`, the extremes of all images; `mse`, that part of them where rounding and clipping
                together cost least.
        """
        tensors = {name for node in self.quantizable(self.layers) for name in (*self._activations(node), *node.output)}
        fed = {layer: [n.input[0] for n in nodes] for layer, nodes in self.layers.items() if all(map(biased, nodes))}
        return calibration_of(
            self._run(self.model, pictures, sorted(tensors.union(*fed.values()))), tensors, fed, method
        )

    def quantized(
        self, calibration: Calibration, layers: Collection[str], reduce_range: bool, correct: bool = True
    ) -> Any:
        """The graph with `layers` on integers.

        Args:
            reduce_range: weights of 7 bits.
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
            # The kernels of these give floats just as fast, and what is behind the last layer needs no rounding.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        quantizer.quantize_model()
        model = quantizer.model.model
        if correct:
            correct_biases(model, self.model, calibration.means)
        return _bare(model)

    def sensitivities(self, calibration: Calibration, pictures: list[Tensor], reduce_range: bool) -> dict[str, float]:
        """By layer, how much quantizing it alone changes the raw outputs: squared error over squared size, summed."""
        truth = list(self._run(self.model, pictures, self.raw))
        found = {}
        for layer in self.layers:
            own = self._run(self.quantized(calibration, [layer], reduce_range), pictures, self.raw)
            found[layer] = sum(_error(a, b) for a, b in zip(own, truth, strict=True))
        return found

    @staticmethod
    def _run(model: Any, pictures: Iterable[Tensor], tensors: list[str]) -> Iterator[dict[str, np.ndarray]]:
        """Any tensors of a graph, by name, for one image after the other."""
        onnx, onnxruntime = library("onnx"), library("onnxruntime")
        model = copy.deepcopy(model)
        known = {output.name for output in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in known)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for picture in pictures:
            yield dict(zip(tensors, session.run(tensors, {"picture": picture[None].numpy()}), strict=True))


def _error(found: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> float:
    return sum(
        float(np.square(found[name] - value).sum() / max(np.square(value).sum(), 1e-12))
        for name, value in truth.items()
        if np.issubdtype(value.dtype, np.floating)
    )


def _bare(model: Any) -> Any:
    """Without what says nothing: up to a sixth of a quantized file.

    That is where each node came from, as a compiler noted it, and zero points of weights and biases, which are all 0 as
    they are where none is named.
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
    """Whether this processor adds pairs of 8-bit products in 16 bits, which overflow: x86 without VNNI."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return not re.search(r"\bavx(512)?_vnni\b", Path("/proc/cpuinfo").read_text())
    except OSError:  # not Linux: nobody says
        return True
