"""States of torchmetrics: read, gather and merge them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torchmetrics import Metric

States = list[dict[str, Any]]  # a dictionary of states by name for each torchmetrics metric in a module


def read_states(metrics: nn.Module) -> States:
    """The states of all metrics in a module, on the CPU."""
    return [{name: _copy(getattr(part, name)) for name in part._reductions} for part in _parts(metrics)]


def merge_states(metrics: nn.Module, states: Sequence[States]) -> None:
    """Set the metrics to the union of some states, reduced as torchmetrics reduces the states of ranks."""
    for part, *parts in zip(_parts(metrics), *states, strict=True):
        for name, reduction in part._reductions.items():
            values = [state[name] for state in parts]
            if isinstance(values[0], list):
                merged: Any = [_to(part.device, value) for state in values for value in state]
            else:
                stacked = torch.stack(values).to(part.device)
                merged = stacked if reduction is None else reduction(stacked)
            setattr(part, name, merged)
        part._update_count = len(states)


def gather_states(metrics: nn.Module) -> list[States]:
    """The states of all ranks that have any updates, in the order of the ranks; call it on every rank."""
    updated = any(part._update_count for part in _parts(metrics))
    ranks: list[States | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(ranks, read_states(metrics) if updated else None)
    return [states for states in ranks if states is not None]


def _parts(metrics: nn.Module) -> list[Metric]:
    return [module for module in metrics.modules() if isinstance(module, Metric)]


def _copy(state: Any) -> Any:
    return [_to("cpu", value) for value in state] if isinstance(state, list) else state.cpu()


def _to(device: Any, value: Any) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value  # run-length encoded masks are plain data
