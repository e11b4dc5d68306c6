"""Decoding inside an exported graph."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from visiontune.data.frames import Frame


class Exportable(ABC):
    """A head that `export` can write into a file.

    Attributes:
        graph_batch: whether an exported graph takes several images at once.
        shared: raw outputs that all images of a batch share.
        discrete_outputs: raw outputs that depend on comparisons of numbers. Rounding may change them, so they are not
            compared between an exported graph and the model.
        training_only: raw outputs that only the training loss reads; a graph leaves them out.
    """

    graph_batch = True
    shared: tuple[str, ...] = ()
    discrete_outputs: tuple[str, ...] = ()
    training_only: tuple[str, ...] = ()

    @abstractmethod
    def graph(self, raw: dict[str, Any], frame: Frame) -> dict[str, Tensor]:
        """`Head.decode` with tensor operations only, for sizes that may be symbolic.

        All images of the batch have the same frame. With `graph_batch`, every tensor has the batch first; without it,
        the batch is one image.
        """
