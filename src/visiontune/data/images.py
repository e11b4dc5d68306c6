"""Reading pixels: whatever the file holds becomes `(C, H, W)` uint8, the right way up.

Pillow reads every format: torchvision's decoders, twice as fast for JPEG, are deprecated (0.29) and about to go.
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
AHEAD = 16  # images
PROBLEMS = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, Image.DecompressionBombError)


def is_image(path: Path) -> bool:
    """Whether the name is that of an image we read; hidden files (``._photo.jpg``) are not."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def load_image(path: Path, channels: int = 3) -> Tensor:
    """Decode a file to `(channels, H, W)` uint8 with its EXIF orientation applied.

    Transparent pixels lie over white, 16-bit grey is scaled to 8 bits (65535 -> 255), CMYK becomes RGB, an animation
    gives its first frame. Four channels are taken as stored (RGBA, CMYK, four-band TIFF), never made up.

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
    """`load_image` of each in order, some of the next ones decoded ahead by threads."""
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


def read_image_size(path: Path) -> tuple[int, int]:
    """(H, W) of what `load_image` gives, without decoding a JPEG's pixels.

    Raises:
        OSError, ValueError and what else PROBLEMS names: no image.
    """
    if not path.stat().st_size:
        raise ValueError("the file is empty")
    with Image.open(path) as image:
        width, height = image.size
        # Pillow's size of a TIFF has it in already.
        turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def reason(error: BaseException) -> str:
    """What is wrong in a few words, without the memory addresses and source lines that decoders put in."""
    text = str(error).strip().split("\n")[0]
    if "cannot identify image file" in text:
        return "not an image"
    if "truncated" in str(error) or "incomplete" in text:
        return "truncated"
    return text[:120] or type(error).__name__


def with_channels(image: Tensor, channels: int) -> Tensor:
    """An image in memory with as many channels as asked: grey repeated, colour weighed to grey (ITU-R 601)."""
    have = image.shape[0]
    if have == channels:
        return image
    if have == 1:
        return image.expand(channels, -1, -1)
    if have == 3 and channels == 1:
        grey = (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
        return grey.round().to(torch.uint8)
    raise UserError(f"The images have {have} channels, data.channels={channels} wants another number.")


def image_pixels(image: Image.Image, channels: int) -> np.ndarray:
    """`(H, W, channels)` uint8 of an opened image."""
    if channels == 4:
        if len(image.getbands()) != 4:
            raise ValueError(f"it has {len(image.getbands())} bands ({image.mode}), data.channels=4 wants four")
        return np.array(image)
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode in ("F", "LAB"):
        raise ValueError(f"{image.mode} pixels have no agreed range; save it with 8 or 16 bits")
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
