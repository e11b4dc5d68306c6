"""Targets without geometry: a class, a vector of 0 and 1, or a vector of numbers."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from visiontune.data.target_kinds.base import MixableKind, TargetKind


class Classification(MixableKind):
    name = "classification"
    names_classes = True
    single_label = True

    def labels(self, target: Any) -> Sequence[int]:
        return [target]

    def relabel(self, target: Any, labels: Sequence[int | None], count: int) -> int | None:
        return labels[target]

    def soft_vector(self, target: Any, classes: int) -> Tensor:
        return one_hot(torch.tensor(target), classes).float()

    def convert(self, value: Any, size: tuple[int, int]) -> int:
        try:
            label = operator.index(value)
        except TypeError:
            raise ValueError(f"expected an int such as 3, got {describe(value)}") from None
        if label < 0:
            raise ValueError(f"expected a label from 0, got {label}")
        return label


class Multilabel(MixableKind):
    name = "multilabel"
    value_per_class = True
    evidence = "class with positive and negative labels"
    names_classes = True

    def labels(self, target: Any) -> Sequence[int]:
        return (target > 0).nonzero()[:, 0].tolist()

    def decides(self, targets: Sequence[tuple[Any, Sequence[int]]]) -> bool:
        # Average precision is 1 for every model if all labels of a class are positive. NaN is unknown.
        values = torch.stack([target for target, _ in targets]) if targets else torch.empty(0, 0)
        return bool(((values > 0).any(0) & (values == 0).any(0)).any())

    def relabel(self, target: Any, labels: Sequence[int | None], count: int) -> Tensor:
        return _reorder(target, labels, count)

    def soft_vector(self, target: Any, classes: int) -> Tensor:
        return target.float().cpu()  # like the mixing shares

    def convert(self, value: Any, size: tuple[int, int]) -> Tensor:
        vector = _vector(value)
        if not bool(((vector == 0) | (vector == 1) | vector.isnan()).all()):
            raise ValueError(f"expected 0 or 1 for each class (NaN where unknown), got {vector.tolist()}")
        return vector

    def class_count(self, target: Any) -> int:
        return len(target)


class Regression(TargetKind):
    name = "regression"
    value_per_class = True

    def relabel(self, target: Any, labels: Sequence[int | None], count: int) -> Tensor:
        return _reorder(target, labels, count)

    def convert(self, value: Any, size: tuple[int, int]) -> Tensor:
        vector = _vector(value)
        if not bool(vector.isfinite().all()):
            raise ValueError(f"expected finite numbers, got {vector.tolist()}")
        return vector

    def class_count(self, target: Any) -> int:
        return len(target)


def describe(value: Any) -> str:
    """Describe a value in an error message: its type, and its shape or repr."""
    shape = getattr(value, "shape", None)
    text = f"of shape {tuple(shape)}" if shape is not None else repr(value)[:60]
    return f"{type(value).__name__} {text}"


def _reorder(vector: Tensor, labels: Sequence[int | None], count: int) -> Tensor:
    """The values at their new places; NaN, which is unknown, at places without a value."""
    reordered = vector.new_full((count,), torch.nan)
    for value, label in zip(vector, labels, strict=True):
        if label is not None:
            reordered[label] = value
    return reordered


def _vector(value: Any) -> Tensor:
    try:
        vector = torch.from_numpy(np.array(value, dtype=np.float32))
    except (TypeError, ValueError):
        raise ValueError(f"expected numbers such as [0.5, 2.0], got {describe(value)}") from None
    if vector.ndim > 1 or not vector.numel():
        raise ValueError(f"expected a vector of numbers such as [0.5, 2.0], got {describe(value)}")
    return vector.reshape(-1)
