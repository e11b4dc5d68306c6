"""A loss that is a mean over the elements of a target: labels, values or pixels."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from visiontune.models.heads.base import Head, Raw
from visiontune.models.heads.losses import ModuleLoss


class ElementLossHead(Head):
    """A head whose loss is the mean over the known elements of each sample, then over all samples with known elements.

    Attributes:
        loss_module: a loss from the config that replaces `element_losses`; each head sets it.
    """

    loss_module: ModuleLoss | None  # no default here, which would hide the registered module

    @abstractmethod
    def loss_inputs(self, raw: Raw, targets: list[Any]) -> tuple[Tensor, Tensor]:
        """Predictions and targets of one shape ``(B, ...)``; NaN in a target is unknown."""

    @abstractmethod
    def element_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The loss of each element ``(B, ...)``; unknown targets are 0, and their losses are not used."""

    def smooth(self, targets: Tensor) -> Tensor:
        """The targets that a loss module trains on."""
        return targets

    def loss(self, raw: Raw, targets: list[Any]) -> dict[str, Tensor]:
        predictions, target, known = self._known(raw, targets)
        if self.loss_module is not None:
            return {"loss": self.loss_module.batch_loss(predictions, self.smooth(target), known)}
        losses, labelled = self._losses(predictions, target, known)
        return {"loss": losses.sum() / labelled.sum().clamp_min(1)}

    def sample_loss(self, raw: Raw, targets: list[Any]) -> Tensor:
        predictions, target, known = self._known(raw, targets)
        if self.loss_module is not None:
            return self.loss_module.sample_losses(predictions, target, known)
        losses, labelled = self._losses(predictions, target, known)
        return losses.masked_fill(~labelled, torch.nan)

    def _known(self, raw: Raw, targets: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions, targets with 0 for unknown elements, and whether each element is known."""
        predictions, target = self.loss_inputs(raw, targets)
        return predictions, target.nan_to_num(0.0), ~target.isnan()

    def _losses(self, predictions: Tensor, targets: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each sample (0 without known elements), and whether it has known elements, both ``(B,)``."""
        elements = self.element_losses(predictions, targets) * known
        inner = tuple(range(1, elements.ndim))
        return elements.sum(inner) / known.sum(inner).clamp_min(1), known.flatten(1).any(1)
