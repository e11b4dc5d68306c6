"""One kind of parameter trains in every stage, with the heads."""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from visiontune.strategies.base import Strategy

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class NormOnly(Strategy):
    """Scales and shifts of the normalisation layers (Frankle et al. 2021, https://arxiv.org/abs/2003.00152).

    Args:
        lr_decay, batchnorm: as in `Strategy`.
    """

    def trains_parameter(self, module: nn.Module, name: str) -> bool:
        # Only some of timm's norms derive from torch's.
        return isinstance(module, NORMS) or "norm" in type(module).__name__.lower()


class BiasOnly(Strategy):
    """All biases, including those of norms (BitFit, Ben Zaken et al. 2022, https://arxiv.org/abs/2106.10199; TinyTL,
    Cai et al. 2020, https://arxiv.org/abs/2007.11622).

    Args:
        lr_decay, batchnorm: as in `Strategy`.
    """

    def trains_parameter(self, module: nn.Module, name: str) -> bool:
        return name == "bias" or name.endswith("_bias")
