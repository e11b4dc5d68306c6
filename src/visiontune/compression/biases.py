"""Correct the biases of quantized layers: rounding the weights shifts the mean of their output."""

from typing import Any

import numpy as np

from visiontune.deployment.files import library


def has_bias(node: Any) -> bool:
    """Whether the node has a bias, and a weight of shape ``(outputs, inputs of a group, ...)``."""
    if node.op_type == "Gemm" and not any(part.name == "transB" and part.i for part in node.attribute):
        return False
    return node.op_type in ("Conv", "Gemm") and len(node.input) > 2


def separate_biases(model: Any) -> None:
    """Copy a shared bias for each node, in place: the scale of a quantized bias depends on the node's input."""
    graph, used = model.graph, set()
    constants = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if has_bias(node) and node.input[2] in constants:
            name = node.input[2]
            if name in used:
                node.input[2] = f"{name}.{node.name}"
                copy = graph.initializer.add()
                copy.CopyFrom(constants[name])
                copy.name = node.input[2]
            used.add(name)


def correct_biases(model: Any, exact: Any, means: dict[str, np.ndarray]) -> None:
    """Bias correction (Nagel et al. 2019, https://arxiv.org/abs/1906.04721, section 4.2), in place.

    Args:
        model: the quantized graph.
        exact: the float graph; its nodes have the same names.
        means: by weight, the mean of each input channel ``(C,)`` of its layer.
    """
    helper = library("onnx").numpy_helper
    weights = {weight.name: weight for weight in exact.graph.initializer}
    constants = {weight.name: weight for weight in model.graph.initializer}
    integers = {  # by dequantized name: the integers and their scale
        node.output[0]: [constants[name] for name in node.input[:2]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    rounded = {node.name: node.input for node in model.graph.node}
    for node in exact.graph.node:
        inputs = rounded.get(node.name, [])
        if not (has_bias(node) and len(inputs) > 2 and inputs[1] in integers and inputs[2] in integers):
            continue
        (numbers, scale), (bias, unit) = ([helper.to_array(part) for part in integers[name]] for name in inputs[1:3])
        weight = helper.to_array(weights[node.input[1]])
        error = scale.reshape(-1, *[1] * (weight.ndim - 1)) * numbers - weight
        error = error.reshape(*error.shape[:2], -1).sum(2)  # (outputs, inputs of a group)
        mean = means[node.input[1]].reshape(-1, error.shape[1])  # (groups, inputs of a group)
        shift = np.einsum("goi,gi->go", error.reshape(len(mean), -1, error.shape[1]), mean).ravel()
        stored_bias = integers[inputs[2]][0]
        stored_bias.CopyFrom(helper.from_array(np.rint(bias - shift / unit).astype(bias.dtype), stored_bias.name))
