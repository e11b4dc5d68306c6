"""The network of an exported graph in integers of 8 bits.

Weights are symmetric with a scale for each output channel, activations asymmetric with one scale a tensor, from what
calibration pictures gave (Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342). The file has integers for weights,
and pairs of QuantizeLinear and DequantizeLinear around activations (QDQ), which onnxruntime joins to kernels on
integers.
"""

import copy
import platform
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visiontune.exporting.files import library

CONVOLUTIONS = ("Conv", "ConvTranspose")
WEIGHTED = (*CONVOLUTIONS, "Gemm", "MatMul")
# With kernels on integers, and worth one only where integers come in.
PASSING = ("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "MaxPool", "Relu", "Resize")
ONE_INPUT = ("Clip", "Resize")  # whose further inputs are no activations
CALIBRATIONS = ("minmax", "mse")

Ranges = dict[str, tuple[float, float]]


class Network:
    """What an exported graph computes with weights.

    What brings the picture to the network's input, and the decoding of raw outputs, stay as they are.

    Attributes:
        layers: by the name of a weight, the name of the node that it belongs to, from input to output.
    """

    def __init__(self, path: Path) -> None:
        self.model = library("onnx").load(path)
        graph = self.model.graph
        self.constants = {weight.name for weight in graph.initializer}
        self.raw = [output.name for output in graph.output if output.name.startswith("raw.")]
        self.needed = set(self.raw)
        for node in reversed(graph.node):
            if self.needed.intersection(node.output):
                self.needed.update(node.input)
        self.layers = {
            weight: node.name
            for node in graph.node
            if node.op_type in WEIGHTED
            for weight in node.input[1:2]
            if weight in self.constants
        }

    def quantizable(self, layers: Collection[str]) -> list[Any]:
        """The nodes of `layers`, and those that only pass on what they give."""
        chosen = {self.layers[layer] for layer in layers}
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

    def calibrate(self, pictures: Iterable[Tensor], method: str) -> Ranges:
        """Lowest and highest value of every activation that may be quantized.

        Args:
            pictures: ``(C, H, W)`` uint8, as stored.
            method: `minmax`, the extremes of all pictures; `mse`, that part of them where rounding and clipping
                together cost least.
        """
        tensors = {name for node in self.quantizable(self.layers) for name in (*self._activations(node), *node.output)}
        seen: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
        rng = np.random.default_rng(0)
        for found in self._run(self.model, pictures, sorted(tensors)):
            for name, value in found.items():
                values = value.ravel()
                extremes = [values.min(initial=0), values.max(initial=0)]
                drawn = rng.choice(values, SAMPLED) if method == "mse" and len(values) else values[:0]
                seen[name].append(np.concatenate([extremes, drawn]))
        return {name: _range(np.stack(values), method) for name, values in seen.items()}

    def quantized(self, ranges: Ranges, layers: Collection[str], reduce_range: bool) -> Any:
        """The graph with `layers` on integers.

        Args:
            reduce_range: weights of 7 bits.
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
                {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()},
            ),
            nodes_to_quantize=[node.name for node in nodes],
            nodes_to_exclude=[],
            op_types_to_quantize=[*WEIGHTED, *PASSING],
            # The kernels of these give floats just as fast, and what is behind the last layer needs no rounding.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        quantizer.quantize_model()
        return _bare(quantizer.model.model)

    def sensitivities(self, ranges: Ranges, pictures: list[Tensor], reduce_range: bool) -> dict[str, float]:
        """By layer, how much quantizing it alone changes the raw outputs: squared error over squared size, summed."""
        truth = list(self._run(self.model, pictures, self.raw))
        found = {}
        for layer in self.layers:
            own = self._run(self.quantized(ranges, [layer], reduce_range), pictures, self.raw)
            found[layer] = sum(_error(a, b) for a, b in zip(own, truth, strict=True))
        return found

    @staticmethod
    def _run(model: Any, pictures: Iterable[Tensor], tensors: list[str]) -> Iterator[dict[str, np.ndarray]]:
        """Any tensors of a graph, by name, for one picture after the other."""
        onnx, onnxruntime = library("onnx"), library("onnxruntime")
        model = copy.deepcopy(model)
        known = {output.name for output in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in known)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for picture in pictures:
            yield dict(zip(tensors, session.run(tensors, {"picture": picture[None].numpy()}), strict=True))


SAMPLED = 512  # values of an activation and picture that `mse` looks at


def _range(values: np.ndarray, method: str) -> tuple[float, float]:
    """Of ``(pictures, 2 + sampled)``: each picture's lowest and highest value, then some of the others."""
    low, high = float(values[:, 0].min()), float(values[:, 1].max())
    if method == "minmax":
        return low, high
    best = min(np.linspace(0.2, 1, 41).tolist(), key=lambda part: _clipped(values[:, 2:], part * low, part * high))
    return best * low, best * high


def _clipped(values: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of `values` in 8 bits over this range."""
    scale = max(high - low, 1e-12) / 255
    return float(np.square(np.clip(np.round(values / scale) * scale, low, high) - values).mean())


def _error(found: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> float:
    return sum(
        float(np.square(found[name] - value).sum() / max(np.square(value).sum(), 1e-12))
        for name, value in truth.items()
        if np.issubdtype(value.dtype, np.floating)
    )


def _bare(model: Any) -> Any:
    """Without what a compiler noted of where each node came from: up to a tenth of a quantized file."""
    graph = model.graph
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
