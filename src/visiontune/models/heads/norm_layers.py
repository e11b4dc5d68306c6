"""Norm layers in the convolutions of detectors."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from visiontune.errors import UserError
from visiontune.models.heads.detector_options import DetectorOptions

GROUPS = 32


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm which uses its running statistics for a batch without a variance: no box, or a single cell."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() <= input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def norm_layer(options: DetectorOptions, detector: str, choices: Sequence[str]) -> Callable[[int], nn.Module] | None:
    """The norm layer for a number of channels; None = no norm layers.

    Args:
        choices: of the detector, the default first.

    Raises:
        UserError: the detector does not have this norm, or its groups do not divide the channels.
    """
    norm = options.norm or choices[0]
    if norm not in choices:
        raise UserError(f"{options.key}.norm={norm} with detector={detector}: write {' or '.join(choices)}")
    if norm == "group" and (options.channels % GROUPS or options.channels < 2 * GROUPS):  # of more than one channel
        raise UserError(
            f"{options.key}.channels={options.channels} with detector={detector}: write 64, 96, 128 or another "
            "multiple of 32"
        )
    layers: dict[str, Callable[[int], nn.Module] | None] = {
        "none": None,
        "batch": BatchNorm,
        "group": partial(nn.GroupNorm, GROUPS),
    }
    return layers[norm]
