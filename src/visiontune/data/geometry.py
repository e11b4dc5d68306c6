"""Fit images to the network's input without randomness, and compute where they lie in it.

All steps are torchvision v2 transforms, so boxes and masks that are tv_tensors move with the image. Sizes are
computed in integer arithmetic, so that an exported graph computes the same ones.
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

    It resizes in float, while training resizes in uint8: torchvision's uint8 resize is off by up to one grey level for
    a tenth of the pixels, differs between processors, and cannot be reproduced outside PyTorch.

    `squash` changes the aspect ratio and shows the whole image; `crop` keeps the aspect ratio, resizes the short side
    to 8/7 of the size and takes the center (as ImageNet is evaluated); `letterbox` keeps the aspect ratio and pads.

    Args:
        kinds: the kinds of the targets that are transformed with the image.
        fill: grey value (0..255) of the padding.
    """
    exact = v2.ToDtype(torch.float32, scale=True)
    return v2.Compose([*steps_before(kinds), exact, *fit(size, resize, fill / 255), *steps_after(kinds)])


def fit(size: tuple[int, int], resize: str, fill: float = 0) -> list[v2.Transform]:
    """The transforms that fit an image into `size` (H, W); `resize` is one of `FITS`."""
    if resize == "squash":
        return [Squash(size)]
    if resize == "crop":
        return [ShortSide(_margin(size)), Middle(size)]
    if resize == "letterbox":
        return [Letterbox(size, fill)]
    raise UserError(f"data.resize={resize}: choose one of {', '.join(FITS)}")


def eval_frame(resize: str, image_size: tuple[int, int], size: tuple[int, int]) -> Frame:
    """Where `eval_transform` puts an image of `image_size` (H, W) pixels in an input of `size` (h, w)."""
    height, width = resized_size(resize, image_size, size)
    if resize == "crop":  # never halve a negative number: Python rounds it down, ONNX towards zero
        return Frame(image_size, (-((height - size[0]) // 2), -((width - size[1]) // 2), height, width))
    return Frame(image_size, ((size[0] - height) // 2, (size[1] - width) // 2, height, width))


def resized_size(resize: str, image_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of an image of `image_size` (H, W) pixels after resizing for `size`, before cropping or padding."""
    if resize == "squash":
        return size
    return _covering(image_size, _margin(size)) if resize == "crop" else _inside(image_size, size)


def _margin(size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) that `crop` resizes to before it takes the center of `size`."""
    return round(size[0] * 8 / 7), round(size[1] * 8 / 7)


def _covering(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the smallest image with this aspect ratio that covers `size`."""
    height, width = image_size
    h: Any = torch.sym_max(size[0], _over(height * size[1], width))
    w: Any = torch.sym_max(size[1], _over(width * size[0], height))
    return h, w


def _inside(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the largest image with this aspect ratio that fits into `size`, at least one pixel."""
    height, width = image_size
    h: Any = torch.sym_min(size[0], _over(height * size[1], width))
    w: Any = torch.sym_min(size[1], _over(width * size[0], height))
    return torch.sym_max(1, h), torch.sym_max(1, w)


def _over(a: int, b: int) -> int:
    """a / b, rounded."""
    return (2 * a + b) // (2 * b)


class Resizing(v2.Transform):
    """A transform that resizes images (bilinear, antialiased), boxes and masks.

    For masks, torchvision's resize takes the upper left of the pixels that are merged, which shifts the mask against
    the image by up to half a pixel; this one takes the central pixel.
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
    """Resize to the smallest image that covers `size` (H, W), keeping the aspect ratio."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        return {"size": list(_covering((height, width), self.size))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self.resize(inpt, params["size"])


class Middle(v2.Transform):
    """Crop the central `size` (H, W) of a larger image."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        return {"top": (height - self.size[0]) // 2, "left": (width - self.size[1]) // 2}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, inpt, params["top"], params["left"], *self.size)


class Letterbox(Resizing):
    """Resize to fit into `size` (H, W), keeping the aspect ratio, and pad on all sides."""

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
        return self._call_kernel(F.pad, resized, params["padding"], fill=self.fill.value_for(inpt))


class ResizeAndCut(Resizing):
    """Resize by a random factor, then crop or pad at random positions to `size` (H, W).

    Large-scale jitter (Ghiasi et al. 2021, https://arxiv.org/abs/2012.07177): objects appear in many sizes.

    Args:
        factors: smallest and largest factor; 1 is the scale of evaluation.
        resize: one of `FITS`; defines the aspect ratio.
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
        h, w = (max(1, round(side * factor)) for side in resized_size(self.fit, (height, width), self.size))
        top, left = int(draw[1] * (abs(self.size[0] - h) + 1)), int(draw[2] * (abs(self.size[1] - w) + 1))
        crop_h, crop_w = min(h, self.size[0]), min(w, self.size[1])
        pad_top, pad_left = top * (h < self.size[0]), left * (w < self.size[1])
        return {
            "size": [h, w],
            "crop": [top * (h > crop_h), left * (w > crop_w), crop_h, crop_w],
            "padding": [pad_left, pad_top, self.size[1] - crop_w - pad_left, self.size[0] - crop_h - pad_top],
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        resized = self.resize(inpt, params["size"])
        crop = self._call_kernel(F.crop, resized, *params["crop"])
        return self._call_kernel(F.pad, crop, params["padding"], fill=self.fill.value_for(inpt))
