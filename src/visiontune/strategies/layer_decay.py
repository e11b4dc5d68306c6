"""The learning rate falls from block to block."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from visiontune.strategies.base import HEADS, Stages, Strategy, build_groups, check_decay

CONTAINERS = (nn.Sequential, nn.ModuleList)


class LayerDecay(Strategy):
    """Everything trains; the learning rate falls by a factor from block to block (ELECTRA, Clark et al. 2020,
    https://arxiv.org/abs/2003.10555; for ViTs BEiT, Bao et al. 2022, https://arxiv.org/abs/2106.08254).

    A block is a member of the longest sequence of modules in a stage (a residual block, a transformer layer).
    Parameters between blocks belong to the block before them, or to the first. Each block has its own optimizer groups,
    so every scheduler scales their learning rates.

    Args:
        decay: learning rate of a block divided by that of the next block, in (0, 1].
        batchnorm: as in `Strategy`.
    """

    def __init__(self, stages: list[str], epochs: int, decay: float = 0.75, batchnorm: str = "frozen") -> None:
        super().__init__(stages, epochs, batchnorm=batchnorm)
        self.decay = check_decay(decay, "decay")

    def param_groups(self, stages: Stages, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        parts = [(name, *part) for name, module in stages for part in blocks(name, module)]
        return [
            group
            for i, (stage, name, parameters) in enumerate(parts)
            for group in build_groups(name, stage, parameters, lr * self.decay ** (len(parts) - 1 - i), weight_decay)
        ]


def blocks(stage: str, module: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    """Names and parameters of the blocks of a stage, from input to output; the whole stage if it has no blocks."""
    longest = max(_sequences(module), key=len, default=[])
    if len(longest) < 2 or stage == HEADS:
        return [(stage, list(module.parameters()))]
    block_index = {id(p): i for i, block in enumerate(longest) for p in block.parameters()}
    members: list[list[nn.Parameter]] = [[] for _ in longest]
    index = 0
    for parameter in module.parameters():
        index = block_index.get(id(parameter), index)
        members[index].append(parameter)
    return [(f"{stage}.{i}", parameters) for i, parameters in enumerate(members)]


def _sequences(stage: nn.Module) -> Iterator[list[nn.Module]]:
    """Sequences of modules of one type, without the sequences inside them, such as the layers of a block."""
    inside: set[nn.Module] = set()
    for part in stage.modules():
        children = list(part.children())
        if part is stage and not isinstance(part, CONTAINERS):
            # A transformer's stage contains its blocks directly, without a Sequential around them.
            children = [child for child in children if list(child.children()) and not isinstance(child, CONTAINERS)]
        elif not isinstance(part, CONTAINERS):
            continue
        same_type = len({type(child) for child in children}) == 1 and all(map(_has_parameters, children))
        if same_type and len(children) > 1 and part not in inside:
            inside.update(part.modules())
            yield children


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
