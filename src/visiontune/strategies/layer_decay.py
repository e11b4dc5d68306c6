"""The learning rate falls from block to block."""

from typing import Any

from torch import nn

from visiontune.strategies.base import HEADS, Stages, Strategy, checked_decay, groups_of


class LayerDecay(Strategy):
    """Everything trains, at a rate that falls by a factor a block (ELECTRA, Clark et al. 2020,
    https://arxiv.org/abs/2003.10555; for ViTs BEiT, Bao et al. 2022, https://arxiv.org/abs/2106.08254).

    A block is a member of the longest sequence of modules in a stage (a residual block, a transformer's layer); what
    stands beside it belongs to the first of them. The rates are those of the optimizer's groups, so that every
    schedule scales them.

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
    sequences = [part for part in module.modules() if isinstance(part, nn.Sequential | nn.ModuleList)]
    alike = [part for part in sequences if len({type(child) for child in part}) == 1 and _with_parameters(part)]
    longest = max(alike, key=len, default=None)
    if longest is None or len(longest) < 2 or stage == HEADS:
        return [(stage, list(module.parameters()))]
    own = [list(child.parameters()) for child in longest]
    inside = {id(p) for part in own for p in part}
    own[0] = [p for p in module.parameters() if id(p) not in inside] + own[0]
    return [(f"{stage}.{i}", parameters) for i, parameters in enumerate(own)]


def _with_parameters(part: nn.Sequential | nn.ModuleList) -> bool:
    return all(any(True for _ in child.parameters()) for child in part)
