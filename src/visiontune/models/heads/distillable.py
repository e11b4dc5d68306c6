"""Learning from a teacher."""

from abc import ABC, abstractmethod
from typing import Any, Self

from torch import Tensor


class Distillable(ABC):
    """A head that can learn from the outputs of a teacher's head."""

    @abstractmethod
    def distill(
        self, raw: dict[str, Any], teacher: Self, teacher_outputs: dict[str, Any], temperature: float
    ) -> Tensor:
        """Distance from `raw` to a teacher's outputs for the same images, without labels.

        Args:
            teacher: a head of the same class and task; its options and the size of its input may differ.
            teacher_outputs: its raw outputs, without a gradient.
            temperature: softens the probabilities of both.

        Returns:
            A scalar of about the same size as the loss.

        Raises:
            UserError: the outputs of the two cannot be compared.
        """
