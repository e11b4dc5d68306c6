"""Learned queries of weights for a head with another number of queries."""

from collections.abc import Mapping

from torch import Tensor


def resize_queries(
    state: dict[str, Tensor], initial: Mapping[str, Tensor], groups: Mapping[str, int]
) -> dict[str, str]:
    """Keep the first queries of each group; queries that the weights do not have begin as in the model.

    Args:
        state: the weights, by name; a tensor with another number of queries is replaced.
        initial: the tensors of the model, by name.
        groups: name of a tensor whose rows are queries -> number of groups, one after another.

    Returns:
        Name of each replaced tensor -> its shapes and the number of queries, in words.
    """
    changed = {}
    for name, count in groups.items():
        value, target = state.get(name), initial[name]
        if value is None or value.shape == target.shape or value.shape[1:] != target.shape[1:] or len(value) % count:
            continue
        old, new = value.to(target).unflatten(0, (count, -1)), target.unflatten(0, (count, -1)).clone()
        number = min(old.shape[1], new.shape[1])
        new[:, :number] = old[:, :number]
        state[name] = new.flatten(0, 1)
        changed[name] = f"{tuple(value.shape)} -> {tuple(target.shape)}, {number} queries kept"
    return changed
