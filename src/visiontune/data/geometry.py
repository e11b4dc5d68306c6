"""How an image fits the network's input, the same pixels every time, and the way back.

All steps are torchvision v2 transforms, so boxes and masks given as tv_tensors move with the image. Sizes are whole
numbers by whole-number arithmetic, so that an exported graph comes to the same ones.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from visiontune.data.frames import Frame
from visiontune.data.target_kinds import TargetKind, steps_after, steps_before
from visiontune.data.target_transforms import Fill
from visiontune.errors import UserError

FITS = ("squash", "crop", "letterbox")


def eval_transform(
    size: tuple[int, int], resize: str = "squash", kinds: Collection[TargetKind] = (), fill: float = 0
) -> v2.Transform:
    """Fit the whole image into `size` (H, W): the same pixels every time, float32 0..1.

    In float, not in uint8 as training does: torchvision's uint8 resize is off by up to a whole grey level on a tenth of
    the pixels and by another amount on another processor, and nothing outside PyTorch gives the same.

    `squash` changes the aspect ratio and loses nothing; `crop` keeps it, shrinks the short side to 8/7 of the size and
    takes the middle (as ImageNet is evaluated); `letterbox` keeps it and pads.

    Args:
        kinds: the kinds of the targets that are transformed with the image.
        fill: grey value (0..255) of the padding.
    """
    exact = v2.ToDtype(torch.float32, scale=True)
    return v2.Compose([*steps_before(kinds), exact, *fit(size, resize, fill / 255), *steps_after(kinds)])


def fit(size: tuple[int, int], resize: str, fill: float = 0) -> list[v2.Transform]:
    """The steps of a way to fit `size`."""
    if resize == "squash":
        return [Squash(size)]
    if resize == "crop":
        return [ShortSide(_margin(size)), Middle(size)]
    if resize == "letterbox":
        return [Letterbox(size, fill)]
    raise UserError(f"data.resize={resize}: choose one of {', '.join(FITS)}")


def eval_frame(resize: str, picture: tuple[int, int], size: tuple[int, int]) -> Frame:
    """Where a whole `image` of (H, W) pixels lies in an input of `size` (h, w) that `eval_transform` made of it."""
    height, width = fitted(resize, picture, size)
    if resize == "crop":  # halves of no negative number: Python rounds them down, ONNX towards zero
        return Frame(picture, (-((height - size[0]) // 2), -((width - size[1]) // 2), height, width))
    return Frame(picture, ((size[0] - height) // 2, (size[1] - width) // 2, height, width))


def fitted(resize: str, picture: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the whole `image` after it was resized for `size`, before anything is cut off or padded."""
    if resize == "squash":
        return size
    return _covering(picture, _margin(size)) if resize == "crop" else _inside(picture, size)


def _margin(size: tuple[int, int]) -> tuple[int, int]:
    """What `crop` takes its middle of."""
    return round(size[0] * 8 / 7), round(size[1] * 8 / 7)


def _covering(picture: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the smallest image of this shape that covers `size`."""
    height, width = picture
    h: Any = torch.sym_max(size[0], _over(height * size[1], width))
    w: Any = torch.sym_max(size[1], _over(width * size[0], height))
    return h, w


def _inside(picture: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the largest image of this shape that fits into `size`, at least a pixel."""
    height, width = picture
    h: Any = torch.sym_min(size[0], _over(height * size[1], width))
    w: Any = torch.sym_min(size[1], _over(width * size[0], height))
    return torch.sym_max(1, h), torch.sym_max(1, w)


def _over(a: int, b: int) -> int:
    """a / b, rounded."""
    return (2 * a + b) // (2 * b)


class Resizing(v2.Transform):
    """A step that resizes, boxes and masks too; images bilinear and antialiased.

    torchvision's own resize takes the upper left of the pixels that become one for masks, which shifts them against
    the image by up to half a pixel; here it is the middle one.
    """

    def resize(self, inpt: Any, size: list[int]) -> Any:
        if isinstance(inpt, tv_tensors.Mask):
            plain = inpt.as_subclass(Tensor)
            if not plain.numel():
                small = plain.new_zeros((*plain.shape[:-2], *size))
            else:
                channels = plain.reshape(-1, *plain.shape[-2:])  # a label map has no channel
                small = F.resize_image(channels, size, InterpolationMode.NEAREST_EXACT)
            return tv_tensors.wrap(small.reshape(*plain.shape[:-2], *size), like=inpt)
        return self._call_kernel(F.resize, inpt, size, antialias=True)


class Squash(Resizing):
    """Resize to `size` (H, W)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self.resize(inpt, list(self.size))


class ShortSide(Resizing):
    """Resize, keeping the shape, to the smallest image that covers `size` (H, W)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        return {"size": list(_covering((height, width), self.size))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self.resize(inpt, params["size"])


class Middle(v2.Transform):
    """The middle `size` (H, W) of a larger image."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        return {"top": (height - self.size[0]) // 2, "left": (width - self.size[1]) // 2}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, inpt, params["top"], params["left"], *self.size)


class Letterbox(Resizing):
    """Resize, keeping the shape, to fit into `size` (H, W); the image in the middle."""

    def __init__(self, size: tuple[int, int], fill: float = 0) -> None:
        super().__init__()
        self.size, self.fill = size, Fill(fill)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        h, w = _inside((height, width), self.size)
        top, left = (self.size[0] - h) // 2, (self.size[1] - w) // 2
        return {"size": [h, w], "padding": [left, top, self.size[1] - w - left, self.size[0] - h - top]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        resized = self.resize(inpt, params["size"])
        return self._call_kernel(F.pad, resized, params["padding"], fill=self.fill.of(inpt))


class ResizeAndCut(Resizing):
    """Resize by a random factor, keeping what `resize` does to the shape; cut or pad at random to `size` (H, W).

    Large-scale jitter (Ghiasi et al. 2021, https://arxiv.org/abs/2012.07177): objects are seen in many sizes.

    Args:
        factors: least and most, 1 as evaluation shows it.
        resize: one of `FITS`.
        fill: grey value (0..255) of the padding.
    """

    def __init__(
        self, size: tuple[int, int], factors: tuple[float, float], resize: str = "letterbox", fill: float = 0
    ) -> None:
        super().__init__()
        self.size, self.factors, self.fit, self.fill = size, factors, resize, Fill(fill)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        draw = torch.rand(3).tolist()
        factor = self.factors[0] + draw[0] * (self.factors[1] - self.factors[0])
        h, w = (max(1, round(side * factor)) for side in fitted(self.fit, (height, width), self.size))
        top, left = int(draw[1] * (abs(self.size[0] - h) + 1)), int(draw[2] * (abs(self.size[1] - w) + 1))
        cut_h, cut_w = min(h, self.size[0]), min(w, self.size[1])
        pad_top, pad_left = top * (h < self.size[0]), left * (w < self.size[1])
        return {
            "size": [h, w],
            "cut": [top * (h > cut_h), left * (w > cut_w), cut_h, cut_w],
            "padding": [pad_left, pad_top, self.size[1] - cut_w - pad_left, self.size[0] - cut_h - pad_top],
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        resized = self.resize(inpt, params["size"])
        cut = self._call_kernel(F.crop, resized, *params["cut"])
        return self._call_kernel(F.pad, cut, params["padding"], fill=self.fill.of(inpt))
