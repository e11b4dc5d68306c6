"""Convert the pixels of a Pillow image to uint8 arrays."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

STRIP = 1 << 20  # pixels that are converted at once; a whole image at once would need several copies of it
FULL_RANGE = (0.0, 65535.0)
Range = tuple[float, float]


def image_pixels(image: Image.Image, channels: int, grey_range: Range | None = None) -> np.ndarray:
    """`(H, W, channels)` uint8 of an opened image, as stored (EXIF orientation is not applied).

    Raises:
        ValueError: the image has other bands than `channels=4` needs, or its values have no defined range.
    """
    image.load()
    grey_range = check_pixels(image, channels, grey_range)
    width, height = image.size
    pixels = np.empty((height, width, channels), dtype=np.uint8)
    for top, strip in strips(image):
        converted = _convert(strip, channels, grey_range)
        pixels[top : top + len(converted)] = converted if converted.ndim == 3 else converted[:, :, None]
    return pixels


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels ``(H, W, ...)`` of an image with this EXIF orientation (1 to 8) -> as a viewer shows them."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def check_pixels(image: Image.Image, channels: int, grey_range: Range | None = None) -> Range:
    """The values that become 0 and 255 if the image is grey with more than 8 bits. Raises as `image_pixels`."""
    if channels == 4 and len(image.getbands()) != 4:
        raise ValueError(f"it has {len(image.getbands())} bands ({image.mode}), data.channels=4 needs four")
    if image.mode == "LAB" and channels != 4:
        raise ValueError("LAB pixels are not supported; save it as RGB")
    if grey_range is not None or not is_deep(image) or image.mode.startswith("I;16"):
        return grey_range or FULL_RANGE
    low, high = grey_values(image)
    if image.mode == "F" or low < FULL_RANGE[0] or high > FULL_RANGE[1]:
        raise ValueError(
            f"its values, {low:g} to {high:g}, have no defined range; write which become black and white, such as "
            f"data.grey_range=[{low:g},{high if high > low else low + 1:g}]"
        )
    return FULL_RANGE


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey with more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def has_deep_color(image: Image.Image) -> bool:
    """Whether an image that is not decoded yet has colors with 16 bits, of which Pillow keeps the upper 8."""
    return not is_deep(image) and any(";16" in str(tile[3]) for tile in getattr(image, "tile", []))


def grey_values(image: Image.Image) -> tuple[float, float]:
    """Smallest and largest value of a decoded grey image; values that are not finite are left out."""
    lows, highs = [], []
    for _, strip in strips(image):
        values = np.asarray(strip)
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        if values.size:
            lows.append(values.min().item())
            highs.append(values.max().item())
    return (min(lows), max(highs)) if lows else (0, 0)


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Parts of the image from top to bottom, each with the number of its first row."""
    width, height = image.size
    rows = max(1, STRIP // width)
    if rows >= height:
        yield 0, image
        return
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(height, top + rows)))


def _convert(image: Image.Image, channels: int, grey_range: Range) -> np.ndarray:
    if channels == 4:
        return np.asarray(image)
    if is_deep(image):
        low, high = grey_range
        values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=low).clip(low, high)
        image = Image.fromarray(np.rint((values - low) / (high - low) * 255).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB" if channels == 3 else "L"))
