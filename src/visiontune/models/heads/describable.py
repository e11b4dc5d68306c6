"""Descriptions and drawings of predictions and targets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor


class Describable(ABC):
    """A head that describes and draws. For other heads, predictions.csv has only losses and nothing is drawn."""

    @abstractmethod
    def describe(self, prediction: dict[str, Tensor]) -> tuple[str, float]:
        """A prediction in words, and its score 0..1 (NaN without a score): two cells of predictions.csv."""

    @abstractmethod
    def describe_target(self, target: Any) -> str:
        """A target in words; the empty string for None."""

    @abstractmethod
    def draw(self, image: Tensor, prediction: dict[str, Tensor] | None, target: Any = None) -> Tensor:
        """Truth and prediction on an image: uint8 ``(3, H, W)`` -> uint8 ``(3, H', W')``."""

    def images(self, prediction: dict[str, Tensor]) -> dict[str, Tensor]:
        """A prediction that is itself an image (a mask, a restored image), by name: uint8 ``(1 or 3, H, W)``."""
        return {}

    def figures(self, computed: Mapping[str, Any]) -> dict[str, Figure]:
        """Figures of the computed metrics, by name."""
        return {}
