"""The output of a backbone, which is the input of a head."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor


@dataclass(frozen=True)
class FeatureShape:
    """What a head needs to know about a backbone to be built.

    Attributes:
        channels: of each feature map, coarsest last.
        strides: of each feature map, in pixels of the image per cell.
        embedding_dim: D of the ``(B, D)`` embedding.
        in_channels: channels of the images.
        prefix_tokens: number of tokens before those of the patches, see `Features.prefix`.
        image_size: (H, W) of the images in pixels, since some heads need certain sizes; None = unknown.
    """

    channels: list[int]
    strides: list[int]
    embedding_dim: int
    in_channels: int = 3
    prefix_tokens: int = 0
    image_size: tuple[int, int] | None = None


class Features:
    """One backbone pass over a batch.

    Attributes:
        maps: feature maps ``(B, C_i, about H/s_i, about W/s_i)``, coarsest last.
        size: (H, W) of the images, in pixels.
        prefix: ``(B, P, D)``, class token and registers, for heads that go on with the blocks of a transformer; None if
            the backbone has none.
        image: ``(B, C, H, W)`` in 0..1, the input of the backbone, for heads whose output is an image.
        embedding: ``(B, D)``, the pooled embedding, the input of the network's pretrained classifier. It is computed
            when it is first read, so that heads which only read maps do not pay for it.
    """

    image: Tensor  # set by the backbone
    prefix: Tensor | None = None

    def __init__(self, maps: list[Tensor], embed: Callable[[], Tensor], size: tuple[int, int] = (0, 0)) -> None:
        self.maps = maps
        self.size = size  # set by the backbone
        self._embed = embed

    @cached_property
    def embedding(self) -> Tensor:
        return self._embed()
