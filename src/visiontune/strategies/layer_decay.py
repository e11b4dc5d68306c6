"""The learning rate falls from block to block."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from visiontune.strategies.base import HEADS, Stages, Strategy, checked_decay, groups_of

CONTAINERS = (nn.Sequential, nn.ModuleList)


class LayerDecay(Strategy):
    """Everything trains, at a rate that falls by a factor a block (ELECTRA, Clark et al. 2020,
    https://arxiv.org/abs/2003.10555; for ViTs BEiT, Bao et al. 2022, https://arxiv.org/abs/2106.08254).

    A block is a member of the longest sequence of modules in a stage (a residual block, a transformer's layer); what
    stands beside them belongs to the one before it, or to the first. The rates are those of the optimizer's groups, so
    that every schedule scales them.

    Args:
        decay: learning rate of a block over that of the block after it, in (0, 1].
        batchnorm: as in `Strategy`.
    """

    def __init__(self, stages: list[str], epochs: int, decay: float = 0.75, batchnorm: str = "frozen") -> None:
        super().__init__(stages, epochs, batchnorm=batchnorm)
        self.decay = checked_decay(decay, "decay")

    def param_groups(self, stages: Stages, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        parts = [(name, *part) for name, module in stages for part in blocks(name, module)]
        return [
            group
            for i, (stage, name, parameters) in enumerate(parts)
            for group in groups_of(name, stage, parameters, lr * self.decay ** (len(parts) - 1 - i), weight_decay)
        ]


def blocks(stage: str, module: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    """Names and parameters of the blocks of a stage, input to output; the stage itself where it has none."""
    longest = max(_sequences(module), key=len, default=[])
    if len(longest) < 2 or stage == HEADS:
        return [(stage, list(module.parameters()))]
    place = {id(p): i for i, block in enumerate(longest) for p in block.parameters()}
    own: list[list[nn.Parameter]] = [[] for _ in longest]
    at = 0
    for parameter in module.parameters():
        at = place.get(id(parameter), at)
        own[at].append(parameter)
    return [(f"{stage}.{i}", parameters) for i, parameters in enumerate(own)]


def _sequences(stage: nn.Module) -> Iterator[list[nn.Module]]:
    """Modules of one type that follow each other; not those inside such a one, such as a block's own layers."""
    inside: set[nn.Module] = set()
    for part in stage.modules():
        children = list(part.children())
        if part is stage and not isinstance(part, CONTAINERS):
            # Of a transformer several blocks are one stage, in no sequence of their own.
            children = [child for child in children if list(child.children()) and not isinstance(child, CONTAINERS)]
        elif not isinstance(part, CONTAINERS):
            continue
        alike = len({type(child) for child in children}) == 1 and all(map(_has_parameters, children))
        if alike and len(children) > 1 and part not in inside:
            inside.update(part.modules())
            yield children


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
