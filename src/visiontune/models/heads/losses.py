"""A loss from the config: any `nn.Module` that a head calls as `module(predictions, targets)`.

| head | predictions | targets |
| --- | --- | --- |
| classification | logits ``(B, C)`` | probabilities ``(B, C)``: one-hot, smoothed or mixed |
| multilabel | logits ``(B, C)`` | ``(B, C)``, 0 to 1 |
| regression | values ``(B, V)`` | values ``(B, V)``, both standardised by the training split |
| segmentation | logits ``(B, C, H, W)`` | classes ``(B, H, W)`` int64, 255 where there is no truth |
| dense | image ``(B, C, H, W)`` | image ``(B, C, H, W)``, both in units of the range |

For `detection` and `instances` see `detection_losses`.

B are the labelled samples. The module returns one value a sample ``(B,)``, one an element (of which the head takes the
mean over what is known), or a scalar. `reduction` is set to "none" if the module has it. All tensors are float32.
A scalar is the loss of a batch as it is; for the loss of each sample the module is called with one sample at a time.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from visiontune.errors import UserError


class ModuleLoss(nn.Module):
    """Calls a loss module on labelled samples, and checks what it returns.

    Raises:
        UserError: the module does not accept the example, or returns another shape.
    """

    def __init__(
        self, module: nn.Module, key: str, predictions: Tensor, targets: Tensor, ignores_unknown: bool = True
    ) -> None:
        """
        Args:
            key: of the config, for messages.
            predictions, targets: an example of at least two samples, to call the module once.
            ignores_unknown: whether the module leaves out by itself what has no truth; else it has to return a value an
                element where some are unknown.
        """
        super().__init__()
        self.module, self.key, self.ignores_unknown = module, key, ignores_unknown
        if hasattr(module, "reduction"):
            module.reduction = "none"  # type: ignore[assignment]
        with torch.no_grad():
            self.call(predictions, targets)

    def batch_loss(self, predictions: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        """The scalar to minimise; 0 on the graph if nothing is known.

        Args:
            predictions, targets: ``(B, ...)``; of samples without a label, any finite targets.
            known: which samples ``(B,)`` or elements (the shape of the targets) have a truth.
        """
        rows = known.flatten(1).any(1) if known.ndim > 1 else known
        if not rows.any():
            return 0 * predictions.sum()
        return self._reduce(predictions[rows], targets[rows], known[rows]).mean()

    def sample_losses(self, predictions: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        """``(B,)``, NaN where nothing is known. Arguments as in `batch_loss`."""
        rows = known.flatten(1).any(1) if known.ndim > 1 else known
        losses = predictions.new_full((len(predictions),), torch.nan)
        if rows.any():
            arguments = predictions[rows], targets[rows], known[rows]
            values = self._reduce(*arguments)
            if values.ndim == 0:
                samples = zip(*(argument.split(1) for argument in arguments), strict=True)
                values = torch.stack([self._reduce(*sample) for sample in samples])
            losses[rows] = values.to(losses)
        return losses

    def _reduce(self, predictions: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        """``(B,)``, or a scalar."""
        values = self.call(predictions, targets)
        if values.ndim > 1 and values.shape == known.shape:
            counts = known.flatten(1).sum(1).clamp_min(1)
            return values.where(known, 0.0).flatten(1).sum(1) / counts
        if known.ndim > 1 and not self.ignores_unknown and not known.all():
            raise UserError(
                f"{self.key}: some values are unknown, and {type(self.module).__name__} returned "
                f"{tuple(values.shape)} for targets {tuple(targets.shape)}; write a loss with a value an element, such "
                "as one with reduction=none"
            )
        return values.flatten(1).mean(1) if values.ndim > 1 else values

    def call(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """What the module returns: ``(B, ...)`` or a scalar."""
        accepts = f"module(predictions {_text(predictions)}, targets {_text(targets)})"
        name = type(self.module).__name__
        try:
            values: Any = self.module(predictions, targets)
        except Exception as error:  # whatever a module raises for a shape or type that it does not accept
            raise UserError(
                f"{self.key}: expected a loss that accepts {accepts}; {name} raised: {str(error).splitlines()[0]}; "
                "write e.g. a loss of torch.nn with this signature"
            ) from error
        if not isinstance(values, Tensor) or (values.ndim and len(values) != len(predictions)):
            result = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise UserError(
                f"{self.key}: expected {accepts} to return one value a sample ({len(predictions)},), one an element, "
                f"or a scalar; {name} returned {result}"
            )
        return values


def check_loss(loss: Any, names: Collection[str], key: str) -> None:
    """
    Raises:
        UserError: neither one of the names nor a module.
    """
    if not isinstance(loss, nn.Module) and loss not in names:
        raise UserError(
            f"{key}={loss}: write one of {', '.join(names)}, or a module such as {key}={{_target_: torch.nn.L1Loss}}"
        )


def _text(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
