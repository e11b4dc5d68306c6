"""Only the layers of pretrained heads that depend on classes train."""

from collections.abc import Collection, Sequence

from torch import nn

from visiontune.strategies.linear_probe import LinearProbe


class HeadOnly(LinearProbe):
    """The class layers train (`Head.class_rows`); backbone, neck and the other layers of the heads stay pretrained.

    All layers of a head without class layers train, as with `LinearProbe`.
    """

    frozen: Collection[int] = ()

    def prepare_heads(self, shared: Sequence[nn.Parameter]) -> None:
        # Those of the architecture, so a resumed run freezes the same and checkpoints need no list of them.
        self.frozen = {id(parameter) for parameter in shared}

    def trains_head_parameter(self, module: nn.Module, name: str) -> bool:
        return id(getattr(module, name)) not in self.frozen
