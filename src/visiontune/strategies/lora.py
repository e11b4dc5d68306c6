"""Low-rank adapters beside frozen weights."""

import re
from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from visiontune.errors import UserError
from visiontune.strategies.base import Strategy

DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"


class Lora(Strategy):
    """Adapters of low rank on linear and convolution layers (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    The peft library inserts them. Grouped and depthwise convolutions have too few weights and get none. Adapters start
    as zero; `plain_state` merges them into the weights that they adapt.

    Args:
        rank: rank of every adapter.
        alpha: the output of an adapter is scaled by alpha / rank.
        dropout: dropout before the adapters, 0..1.
        lr_decay: as in `Strategy`.

    Raises:
        UserError: peft is not installed, or `rank` is below 1.
    """

    def __init__(
        self,
        stages: list[str],
        epochs: int,
        rank: int = 8,
        alpha: int = 16,
        dropout: float = 0.0,
        lr_decay: float = 1.0,
        batchnorm: str = "frozen",
    ) -> None:
        super().__init__(stages, epochs, lr_decay, batchnorm)
        if not isinstance(rank, int) or rank < 1:
            raise UserError(f"strategy.rank={rank}: write 1 or more, such as strategy.rank=8")
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.adapters: set[int] = set()

    def prepare(self, network: nn.Module) -> None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise UserError(
                "strategy=lora needs peft, an extra of this package: pip install 'visiontune[lora]'"
            ) from error
        # A pattern, since peft compares a list with the ends of names: `conv1` would match a layer in every block.
        targets = "|".join(re.escape(name) for name, module in network.named_modules() if _adaptable(module))
        before = {id(parameter) for parameter in network.parameters()}
        settings = LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=targets)
        inject_adapter_in_model(settings, network)
        self.adapters = {id(parameter) for parameter in network.parameters()} - before

    def describe(self) -> dict[str, Any]:
        return {"adapter_scale": self.alpha / self.rank}

    def trains_parameter(self, module: nn.Module, name: str) -> bool:
        return id(getattr(module, name)) in self.adapters


def _adaptable(module: nn.Module) -> bool:
    return type(module) is nn.Linear or (isinstance(module, nn.Conv2d) and module.groups == 1 and _plain(module))


def _plain(module: _ConvNd) -> bool:
    """Whether it has torch's own forward pass, and does not pad its input or standardise its weights."""
    return type(module).forward is nn.Conv2d.forward


def plain_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint with every adapter merged into the weight that it adapts, under the library's keys.

    The weights of a checkpoint without adapters are unchanged.
    """
    state = dict(checkpoint["state_dict"])
    scale = checkpoint.get("visiontune", {}).get("adapter_scale")
    for key in [key for key in state if key.endswith(DOWN)]:
        place = key.removesuffix(DOWN)
        down, up, weight = state.pop(key), state.pop(place + UP), state.pop(f"{place}.base_layer.weight")
        # The adapter of a convolution is one with the same kernel and `rank` channels, then a 1 x 1.
        state[f"{place}.weight"] = weight + scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
        if (bias := state.pop(f"{place}.base_layer.bias", None)) is not None:
            state[f"{place}.bias"] = bias
    return state


def rename_for_adapters(state: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Rename plain weights to their names in a network with adapters, whose state has the keys `names`."""
    renamed = {key.replace(".base_layer.", "."): key for key in names if ".base_layer." in key}
    return {renamed.get(key, key): value for key, value in state.items()}
