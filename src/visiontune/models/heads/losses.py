"""A loss from the config: any `nn.Module` that a head calls as `module(predictions, targets)`.

| head | predictions | targets |
| --- | --- | --- |
| classification | logits ``(B, C)`` | probabilities ``(B, C)``: one-hot, smoothed or mixed |
| multilabel | logits ``(B, C)`` | ``(B, C)``, 0 to 1 |
| regression | values ``(B, V)`` | values ``(B, V)``, both standardised by the training split |
| segmentation | logits ``(B, C, H, W)`` | classes ``(B, H, W)`` int64, 255 where there is no truth |
| dense | image ``(B, C, H, W)`` | image ``(B, C, H, W)``, both in units of the range |

For `detection` and `instances` see `detection_losses`.

B is the number of labelled samples. The module returns one value per sample ``(B,)``, one per element (the head takes
the mean over the known elements), or a scalar. If the module has `reduction`, it is set to "none". All tensors are
float32. A scalar is the loss of the batch; for the loss of each sample the module is called with one sample at a time.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from visiontune.errors import UserError, first_line


class ModuleLoss(nn.Module):
    """Calls a loss module on labelled samples, and checks the values that it returns.

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
            ignores_unknown: whether the module itself leaves out elements without a truth. If not, it must return one
                value per element whenever some elements are unknown.
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
            predictions, targets: ``(B, ...)``; samples without a label may have any finite target.
            known: which samples ``(B,)`` or elements (same shape as the targets) have a truth.
        """
        rows = known.flatten(1).any(1) if known.ndim > 1 else known
        if not rows.any():
            return 0 * predictions.sum()
        return self._reduce(predictions[rows], targets[rows], known[rows]).mean()

    def sample_losses(self, predictions: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        """``(B,)``, NaN for a sample without a known element. Arguments as in `batch_loss`."""
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
                f"{tuple(values.shape)} for targets {tuple(targets.shape)}; write a loss with one value per element, "
                "such as one with reduction=none"
            )
        return values.flatten(1).mean(1) if values.ndim > 1 else values

    def call(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The values that the module returns: ``(B, ...)`` or a scalar."""
        accepts = f"module(predictions {_text(predictions)}, targets {_text(targets)})"
        name = type(self.module).__name__
        try:
            values: Any = self.module(predictions, targets)
        except Exception as error:  # whatever a module raises for a shape or type that it does not accept
            raise UserError(
                f"{self.key}: expected a loss that accepts {accepts}; {name} raised: {first_line(error)}; "
                "write e.g. a loss of torch.nn with this signature"
            ) from error
        if not isinstance(values, Tensor) or (values.ndim and len(values) != len(predictions)):
            result = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise UserError(
                f"{self.key}: expected {accepts} to return one value per sample ({len(predictions)},), one per "
                f"element, or a scalar; {name} returned {result}"
            )
        return values


def build_loss(
    loss: Any, names: Collection[str], key: str, predictions: Tensor, targets: Tensor, ignores_unknown: bool = True
) -> ModuleLoss | None:
    """The loss module of the config, or None if `loss` is one of the `names` that the head computes itself.

    The other arguments are those of `ModuleLoss`.

    Raises:
        UserError: `loss` is neither a name nor a module, or the module does not accept the example.
    """
    if isinstance(loss, nn.Module):
        return ModuleLoss(loss, key, predictions, targets, ignores_unknown)
    if loss not in list(names):
        raise UserError(
            f"{key}={loss}: write one of {', '.join(names)}, or a module such as {key}={{_target_: torch.nn.L1Loss}}"
        )
    return None


def check_weights(weights: Any, count: int, key: str, loss_module: ModuleLoss | None = None) -> Tensor | None:
    """The weights of the config as a tensor ``(count,)``; None stays None.

    Raises:
        UserError: they are not one number per class or label, or the loss is a module.
    """
    if weights is None:
        return None
    if loss_module is not None:
        raise UserError(f"{key} is not for a loss module; write {key}=null, and give the module weights")
    numbers = [w for w in weights if isinstance(w, int | float)] if isinstance(weights, list | tuple) else []
    if len(numbers) != count:
        raise UserError(f"{key} has {len(numbers)} numbers for {count} classes; write one per class, or {key}=null")
    return torch.tensor(numbers).float()


def check_smoothing(label_smoothing: Any, key: str) -> float:
    """Return `label_smoothing`, and raise UserError if it is not in 0..1."""
    if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing <= 1:
        raise UserError(f"{key}={label_smoothing}: expected a fraction from 0 to 1; write e.g. {key}=0.1")
    return label_smoothing


def _text(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
