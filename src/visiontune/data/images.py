"""Decode image files to `(C, H, W)` uint8 in their upright orientation.

Pillow reads every format. torchvision's decoders are twice as fast for JPEG, but deprecated since 0.29.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from visiontune.cores import usable_cores
from visiontune.data.image_files import (
    BUDGET,
    BYTES_PER_PIXEL,
    MAX_PIXELS,
    PROBLEMS,
    SUFFIXES,
    has_several,
    open_image,
    reason,
)
from visiontune.data.pixels import Range, check_pixels, grey_values, has_deep_color, image_pixels, is_deep, upright
from visiontune.errors import UserError, printable

AHEAD_BYTES = 300_000_000  # of images that `load_images` decodes ahead
AHEAD = 16  # images that it decodes ahead at most


@dataclass(frozen=True)
class ImageDecoder:
    """Decodes a file to `(channels, H, W)` uint8.

    Transparent pixels are blended with white, CMYK is converted to RGB, and of several pages or frames the first is
    read. With `channels=4` the file must have four bands (RGBA, CMYK, four-band TIFF), which are returned as stored.

    Args:
        orientation: `apply` turns the image as its EXIF orientation says, `ignore` leaves the pixels as stored.
        grey_range: values of grey images with more than 8 bits that become 0 and 255; values between them are mapped
            linearly, others are clipped. By default 0 and 65535; 32-bit integers and floats need a range.
        max_pixels: larger images are refused before they are decoded; None for no limit.
    """

    channels: int = 3
    orientation: str = "apply"
    grey_range: Range | None = None
    max_pixels: int | None = MAX_PIXELS

    @classmethod
    def from_config(cls, data: Mapping[str, Any]) -> Self:
        """The decoder of the group `data`; keys that an older run does not have get their defaults.

        Raises:
            UserError: `grey_range` is not ascending.
        """
        keys = ("channels", "orientation", "grey_range", "max_pixels")
        options = {key: data[key] for key in keys if key in data}
        if options.get("grey_range") is not None:
            low, high = options["grey_range"] = tuple(map(float, options["grey_range"]))
            if low >= high:
                wrong = f"data.grey_range=[{low:g},{high:g}]"
                raise UserError(f"{wrong}: expected two ascending numbers; write data.grey_range=[0,4095]")
        return cls(**options)

    def __call__(self, path: Path) -> Tensor:
        """Decode a file.

        Raises:
            UserError: the file cannot be read or decoded; the message names it.
        """
        try:
            with open_image(path, self.max_pixels) as file, BUDGET.reserve(file.weight * BYTES_PER_PIXEL):
                pixels = image_pixels(file.image, self.channels, self.grey_range)
                orientation = file.orientation
        except PROBLEMS as error:
            raise UserError(
                f"{printable(path)}: cannot be read as an image ({reason(error)}). Repair or remove it."
            ) from error
        return torch.from_numpy(self.turn(pixels, orientation)).permute(2, 0, 1)

    @property
    def name(self) -> str:
        """All options as text, for the name of a cache."""
        return "-".join(map(str, astuple(self)))

    def turn(self, pixels: np.ndarray, orientation: int) -> np.ndarray:
        """Stored pixels `(H, W, ...)` of an image with this EXIF orientation -> pixels as they are used."""
        return upright(pixels, orientation) if self.orientation == "apply" else pixels


DECODER = ImageDecoder()


def is_image(path: Path) -> bool:
    """Whether the suffix is that of a supported image format; False for hidden files (``._photo.jpg``)."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def load_image(path: Path, channels: int = 3) -> Tensor:
    """Decode a file as `ImageDecoder` does by default."""
    return ImageDecoder(channels)(path)


def load_images(paths: Sequence[Path], decoder: Callable[[Path], Tensor] = load_image) -> Iterator[Tensor | UserError]:
    """The image of each path in order, or the error of one that cannot be read; threads decode the next ones ahead."""

    def load(path: Path) -> Tensor | UserError:
        try:
            return decoder(path)
        except UserError as error:
            return error

    with ThreadPoolExecutor(usable_cores()) as pool:
        ahead: deque[tuple[Future[Tensor | UserError], int]] = deque()
        try:
            for path in paths:
                size = _decoded_bytes(path)
                while ahead and (len(ahead) > AHEAD or sum(used for _, used in ahead) + size > AHEAD_BYTES):
                    yield ahead.popleft()[0].result()
                ahead.append((pool.submit(load, path), size))
            while ahead:
                yield ahead.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)


def _decoded_bytes(path: Path) -> int:
    try:
        height, width, *_ = read_header(path)
    except (*PROBLEMS, UserError):  # decoding it raises the error again
        return 0
    return height * width * BYTES_PER_PIXEL


class Header(NamedTuple):
    """Height and width of the stored pixels, EXIF orientation (1 to 8), and `ImageFile.weight`."""

    height: int
    width: int
    orientation: int
    weight: int


def read_header(source: Path | bytes) -> Header:
    """The header of an image file, which is not decoded.

    Args:
        source: a path, or the bytes of a file.

    Raises:
        OSError, ValueError: it is not an image.
        UserError: the format needs an extra that is not installed.
    """
    with open_image(source, header=True) as file:
        return Header(file.image.height, file.image.width, file.orientation, file.weight)


def describe_image(source: Path | bytes, decoder: ImageDecoder) -> dict[str, Any]:
    """Decode a file, and return what notes about it need, as JSON.

    Args:
        source: a path, or the bytes of a file.

    Returns:
        `several` if the file holds further images, `deep_color` if it has colors with 16 bits, and `values`, the
        smallest and largest value, if it is grey with more than 8 bits. Most images have none of them.

    Raises:
        OSError, ValueError: `decoder` cannot decode it.
    """
    with open_image(source, decoder.max_pixels) as file, BUDGET.reserve(file.weight * BYTES_PER_PIXEL):
        image = file.image
        deep_color = has_deep_color(image)
        image.load()
        check_pixels(image, decoder.channels, decoder.grey_range)
        notes: dict[str, Any] = {"several": True} if has_several(file) else {}
        notes |= {"deep_color": True} if deep_color else {}
        return notes | ({"values": list(grey_values(image))} if is_deep(image) else {})


def with_channels(image: Tensor, channels: int) -> Tensor:
    """Convert an image in memory to `channels`: grey is repeated, color is converted to grey (ITU-R 601)."""
    count = image.shape[0]
    if count == channels:
        return image
    if count == 1:
        return image.expand(channels, -1, -1)
    if count == 3 and channels == 1:
        grey = (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
        return grey.round().to(torch.uint8)
    raise UserError(f"data.channels={channels}: the images have {count} channels; write data.channels={count}")
