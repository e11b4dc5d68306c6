"""Map predictions from the network's input back to the original image."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Frame(NamedTuple):
    """The position of a whole image in the network's input. In an exported graph the numbers are symbolic.

    Attributes:
        size: (H, W) of the image as it is stored.
        inside: top, left, height, width of the whole image in pixels of the input. It is larger than the input if
            the image was center-cropped, and smaller if the image was padded.
    """

    size: tuple[int, int]
    inside: tuple[int, int, int, int]

    @classmethod
    def whole(cls, height: int, width: int) -> "Frame":
        """The frame of an image that is the input itself."""
        return cls((height, width), (0, 0, height, width))

    def boxes(self, boxes: Tensor, clip: bool = True) -> Tensor:
        """``(N, 4)`` x1, y1, x2, y2 in pixels of the input -> in pixels of the image; `clip` limits them to it."""
        top, left, height, width = self.inside
        x = (boxes[:, 0::2] - left) * (self.size[1] / width)
        y = (boxes[:, 1::2] - top) * (self.size[0] / height)
        if clip:
            x, y = x.clamp(0, self.size[1]), y.clamp(0, self.size[0])
        return torch.stack([x, y], 2).flatten(1)

    def remove_padding(self, maps: Tensor) -> Tensor:
        """The part of ``(..., h, w)`` maps that shows the image, without padding."""
        top, left, height, width = self.inside
        return maps[..., torch.sym_max(0, top) : top + height, torch.sym_max(0, left) : left + width]

    def pixels(self, maps: Tensor) -> Tensor:
        """``(..., C, h, w)`` float, one value per pixel of the input -> ``(..., C, H, W)``, bilinear.

        Where the image was cropped, the values at the edge are repeated.
        """
        top, left, height, width = self.inside
        h, w = maps.shape[-2:]
        visible, overhang = self.remove_padding(maps), [-left, left + width - w, -top, top + height - h]
        padding: list[Any] = [torch.sym_max(0, side) for side in overhang]
        if not all(isinstance(side, int) and side == 0 for side in padding):
            visible = F.pad(visible, padding, mode="replicate")
        if isinstance(self.size[0], int) and visible.shape[-2:] == self.size:
            return visible
        batch = visible if visible.ndim == 4 else visible[None]
        resized = F.interpolate(batch, self.size, mode="bilinear", align_corners=False)
        return resized if visible.ndim == 4 else resized[0]
