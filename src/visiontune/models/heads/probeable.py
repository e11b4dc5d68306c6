"""Starting from a linear model of the frozen embedding."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

Probe = tuple[Tensor, list[Any]]  # embeddings (N, D) and the N targets


class Probeable(ABC):
    """A head that a regularised linear model can initialise."""

    @abstractmethod
    def fit_probe(self, train: Probe, val: Probe) -> str | None:
        """Set this head to the solution of a regularised linear model on the frozen embedding.

        Returns:
            A line for the log; None if this head has no such solution and is unchanged.
        """
