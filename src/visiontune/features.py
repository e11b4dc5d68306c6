"""What a backbone gives and a head takes."""

from collections.abc import Callable
from functools import cached_property

from torch import Tensor


class Features:
    """One backbone pass over a batch.

    Attributes:
        maps: feature maps ``(B, C_i, about H/s_i, about W/s_i)``, coarsest last.
        embedding: ``(B, D)``, the pooled embedding that the network's own pretrained classifier saw. Computed when
            first asked for, so that a head which reads maps alone does not pay for it.
    """

    def __init__(self, maps: list[Tensor], embed: Callable[[], Tensor]) -> None:
        self.maps = maps
        self._embed = embed

    @cached_property
    def embedding(self) -> Tensor:
        return self._embed()
