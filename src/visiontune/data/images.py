"""Decode image files to `(C, H, W)` uint8 in their upright orientation.

Pillow reads every format. torchvision's decoders are twice as fast for JPEG, but deprecated since 0.29.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from visiontune.errors import UserError

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".ppm", ".pgm", ".pbm"]
)
AHEAD = 16  # images that `load_images` decodes ahead
PROBLEMS = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, Image.DecompressionBombError)


def is_image(path: Path) -> bool:
    """Whether the suffix is that of a supported image format; False for hidden files (``._photo.jpg``)."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def load_image(path: Path, channels: int = 3) -> Tensor:
    """Decode a file to `(channels, H, W)` uint8 with its EXIF orientation applied.

    Transparent pixels are blended with white, 16-bit grey is scaled to 8 bits (65535 -> 255), CMYK is converted to
    RGB, and of an animation the first frame is read. With `channels=4` the file must have four bands (RGBA, CMYK,
    four-band TIFF), which are returned as stored.

    Raises:
        UserError: the file cannot be read or decoded; the message names it.
    """
    try:
        data = path.read_bytes()
        if not data:
            raise ValueError("the file is empty")
        with Image.open(BytesIO(data)) as image:
            pixels = image_pixels(ImageOps.exif_transpose(image), channels)
    except PROBLEMS as error:
        raise UserError(f"{path}: cannot be read as an image ({reason(error)}). Repair or remove it.") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def load_images(paths: Sequence[Path], channels: int = 3) -> Iterator[Tensor]:
    """`load_image` for each path in order; threads decode the next images ahead."""
    with ThreadPoolExecutor() as pool:
        ahead: deque[Future[Tensor]] = deque()
        try:
            for path in paths:
                ahead.append(pool.submit(load_image, path, channels))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def read_header(data: bytes) -> tuple[int, int, int]:
    """Height and width of the stored pixels of an image file, and its EXIF orientation (1 to 8), without decoding it.

    Raises:
        OSError, ValueError and the other types in `PROBLEMS`: the file is not an image.
    """
    with Image.open(BytesIO(data)) as image:
        return image.height, image.width, exif_orientation(image)


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8, that an opened image still has; 1 if its EXIF data is broken.

    It is 1 for TIFF, whose orientation is part of the format: Pillow always applies it, to the size as well.
    """
    if image.format == "TIFF":
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the parser raises many types for broken data, which must not make the image useless
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def reason(error: BaseException) -> str:
    """A short description of an error, without the memory addresses and source lines that decoders add."""
    text = str(error).strip().split("\n")[0]
    if "cannot identify image file" in text:
        return "not an image"
    if "truncated" in str(error) or "incomplete" in text:
        return "truncated"
    return text[:120] or type(error).__name__


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


def image_pixels(image: Image.Image, channels: int) -> np.ndarray:
    """`(H, W, channels)` uint8 of an opened image."""
    if channels == 4:
        if len(image.getbands()) != 4:
            raise ValueError(f"it has {len(image.getbands())} bands ({image.mode}), data.channels=4 needs four")
        return np.array(image)
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode in ("F", "LAB"):
        raise ValueError(f"{image.mode} pixels have no defined range; save it with 8 or 16 bits")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    pixels = np.array(image.convert("RGB" if channels == 3 else "L"))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits (Pillow's `I;16` and, for some files, `I`) scaled to 8."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its grey values need more than 16 bits; save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
