"""From the network's input back to the picture that was put into it."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Frame(NamedTuple):
    """Where a whole picture lies in the network's input.

    Attributes:
        size: (H, W) of the picture as it is stored.
        inside: top, left, height, width of the whole picture in pixels of the input. It sticks out where the input is
            the middle of the picture, and leaves a border where it is padded.
    """

    size: tuple[int, int]
    inside: tuple[int, int, int, int]

    @classmethod
    def whole(cls, height: int, width: int) -> "Frame":
        """The input is the picture."""
        return cls((height, width), (0, 0, height, width))

    def boxes(self, boxes: Tensor) -> Tensor:
        """``(N, 4)`` x1, y1, x2, y2 in pixels of the input -> of the picture, clipped to it."""
        top, left, height, width = self.inside
        offset = boxes.new_tensor([left, top, left, top])
        scale = boxes.new_tensor([self.size[1] / width, self.size[0] / height] * 2)
        limit = boxes.new_tensor([self.size[1], self.size[0]] * 2)
        return ((boxes - offset) * scale).clamp(min=torch.zeros_like(limit), max=limit)

    def pixels(self, maps: Tensor) -> Tensor:
        """``(C, h, w)`` float, a value a pixel of the input -> ``(C, H, W)``, bilinear; edges go on where it ends."""
        top, left, height, width = self.inside
        h, w = maps.shape[-2:]
        if min(top, left) < 0 or top + height > h or left + width > w:
            out = (max(0, -left), max(0, left + width - w), max(0, -top), max(0, top + height - h))
            maps = F.pad(maps[None], out, mode="replicate")[0]
            top, left = max(0, top), max(0, left)
        picture = maps[..., top : top + height, left : left + width]
        if picture.shape[-2:] == self.size:
            return picture
        return F.interpolate(picture[None], self.size, mode="bilinear", align_corners=False)[0]
