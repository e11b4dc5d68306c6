"""Biases of layers on integers: one a node, without what rounding the weights adds to the mean of its output."""

from typing import Any

import numpy as np

from visiontune.deployment.files import library


def biased(node: Any) -> bool:
    """Whether the node's weight is ``(outputs, inputs of a group, ...)``, and a constant is added to each output."""
    if node.op_type == "Gemm" and not any(part.name == "transB" and part.i for part in node.attribute):
        return False
    return node.op_type in ("Conv", "Gemm") and len(node.input) > 2


def biases_apart(model: Any) -> None:
    """Give each node a bias of its own, in place: in integers it has a scale that depends on what the node is given."""
    graph, seen = model.graph, set()
    constants = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if biased(node) and node.input[2] in constants:
            name = node.input[2]
            if name in seen:
                node.input[2] = f"{name}.{node.name}"
                copied = graph.initializer.add()
                copied.CopyFrom(constants[name])
                copied.name = node.input[2]
            seen.add(name)


def correct_biases(model: Any, exact: Any, means: dict[str, np.ndarray]) -> None:
    """Bias correction (Nagel et al. 2019, https://arxiv.org/abs/1906.04721, section 4.2), in place.

    Args:
        model: the graph with weights and biases in integers.
        exact: the same in floats; nodes have the same names.
        means: by weight, of each channel ``(C,)`` that its layer is given.
    """
    helper = library("onnx").numpy_helper
    weights = {weight.name: weight for weight in exact.graph.initializer}
    constants = {weight.name: weight for weight in model.graph.initializer}
    integers = {  # of what is a constant in integers: these, and their scale
        node.output[0]: [constants[name] for name in node.input[:2]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    rounded = {node.name: node.input for node in model.graph.node}
    for node in exact.graph.node:
        given = rounded.get(node.name, [])
        if not (biased(node) and len(given) > 2 and given[1] in integers and given[2] in integers):
            continue
        (numbers, scale), (bias, unit) = ([helper.to_array(part) for part in integers[name]] for name in given[1:3])
        weight = helper.to_array(weights[node.input[1]])
        error = scale.reshape(-1, *[1] * (weight.ndim - 1)) * numbers - weight
        error = error.reshape(*error.shape[:2], -1).sum(2)  # (outputs, inputs of a group)
        mean = means[node.input[1]].reshape(-1, error.shape[1])  # (groups, inputs of a group)
        shift = np.einsum("goi,gi->go", error.reshape(len(mean), -1, error.shape[1]), mean).ravel()
        kept = integers[given[2]][0]
        kept.CopyFrom(helper.from_array(np.rint(bias - shift / unit).astype(bias.dtype), kept.name))
