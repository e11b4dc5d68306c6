"""Low-rank adapters beside frozen weights."""

import re
from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from visiontune.errors import UserError
from visiontune.strategies.base import Strategy, is_number

DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"


class Lora(Strategy):
    """Adapters of low rank on linear and convolution layers (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    The peft library inserts them. Grouped and depthwise convolutions have too few weights and get none. Adapters start
    as zero; `plain_state` merges them into the weights that they adapt.

    Args:
        rank: rank of every adapter.
        alpha: above 0; the output of an adapter is scaled by alpha / rank.
        dropout: before the adapters, 0 or more and below 1.
        lr_decay, batchnorm: as in `Strategy`.

    Raises:
        UserError: peft is not installed, or `rank`, `alpha` or `dropout` is out of range.
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
        if not is_number(alpha) or alpha <= 0:
            raise UserError(f"strategy.alpha={alpha}: write a number above 0, such as strategy.alpha=16")
        if not is_number(dropout) or not 0 <= dropout < 1:
            raise UserError(f"strategy.dropout={dropout}: a fraction from 0 and below 1, such as strategy.dropout=0.1")
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
        targets = "|".join(re.escape(name) for name, module in network.named_modules() if _is_adaptable(module))
        before = {id(parameter) for parameter in network.parameters()}
        settings = LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=targets)
        inject_adapter_in_model(settings, network)
        self.adapters = {id(parameter) for parameter in network.parameters()} - before

    def describe(self) -> dict[str, Any]:
        return {"adapter_scale": self.alpha / self.rank}

    def trains_parameter(self, module: nn.Module, name: str) -> bool:
        return id(getattr(module, name)) in self.adapters


def _is_adaptable(module: nn.Module) -> bool:
    if type(module) is nn.Linear:
        return True
    # Subclasses with another forward pass pad their input or standardise their weights.
    return isinstance(module, nn.Conv2d) and module.groups == 1 and type(module).forward is nn.Conv2d.forward


def plain_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint, with every adapter merged into the weight that it adapts.

    The keys are those of a network without adapters. A checkpoint without adapters gives its weights unchanged.
    """
    state = dict(checkpoint["state_dict"])
    scale = checkpoint.get("visiontune", {}).get("adapter_scale")
    for key in [key for key in state if key.endswith(DOWN)]:
        layer = key.removesuffix(DOWN)
        down, up, weight = state.pop(key), state.pop(layer + UP), state.pop(f"{layer}.base_layer.weight")
        # A convolution's adapter is a convolution with the same kernel and `rank` channels, then one of 1 x 1.
        state[f"{layer}.weight"] = weight + scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
        if (bias := state.pop(f"{layer}.base_layer.bias", None)) is not None:
            state[f"{layer}.bias"] = bias
    return state


def rename_for_adapters(state: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Rename plain weights to their names in a network with adapters, whose state has the keys `names`."""
    renamed = {key.replace(".base_layer.", "."): key for key in names if ".base_layer." in key}
    return {renamed.get(key, key): value for key, value in state.items()}
