"""From the network's input back to the image that was put into it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Frame(NamedTuple):
    """Where a whole image lies in the network's input. In an exported graph the numbers are symbols.

    Attributes:
        size: (H, W) of the image as it is stored.
        inside: top, left, height, width of the whole image in pixels of the input. It sticks out where the input is
            the middle of the image, and leaves a border where it is padded.
    """

    size: tuple[int, int]
    inside: tuple[int, int, int, int]

    @classmethod
    def whole(cls, height: int, width: int) -> "Frame":
        """The input is the image."""
        return cls((height, width), (0, 0, height, width))

    def boxes(self, boxes: Tensor, clip: bool = True) -> Tensor:
        """``(N, 4)`` x1, y1, x2, y2 in pixels of the input -> of the image, clipped to it."""
        top, left, height, width = self.inside
        x = (boxes[:, 0::2] - left) * (self.size[1] / width)
        y = (boxes[:, 1::2] - top) * (self.size[0] / height)
        if clip:
            x, y = x.clamp(0, self.size[1]), y.clamp(0, self.size[0])
        return torch.stack([x, y], 2).flatten(1)

    def shown(self, maps: Tensor) -> Tensor:
        """``(..., h, w)``, that part of the input which shows the image."""
        top, left, height, width = self.inside
        return maps[..., torch.sym_max(0, top) : top + height, torch.sym_max(0, left) : left + width]

    def pixels(self, maps: Tensor) -> Tensor:
        """``(..., C, h, w)`` float, a value a pixel of the input -> ``(..., C, H, W)``, bilinear.

        Edges go on where the input ends before the image does.
        """
        top, left, height, width = self.inside
        h, w = maps.shape[-2:]
        picture, out = self.shown(maps), [-left, left + width - w, -top, top + height - h]
        around: list[Any] = [torch.sym_max(0, side) for side in out]
        if not all(isinstance(side, int) and side == 0 for side in around):
            picture = F.pad(picture, around, mode="replicate")
        if isinstance(self.size[0], int) and picture.shape[-2:] == self.size:
            return picture
        batch = picture if picture.ndim == 4 else picture[None]
        resized = F.interpolate(batch, self.size, mode="bilinear", align_corners=False)
        return resized if picture.ndim == 4 else resized[0]
