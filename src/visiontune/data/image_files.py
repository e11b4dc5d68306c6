"""Open image files with Pillow. Whatever Pillow raises for a damaged file becomes an OSError or a ValueError."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image

from visiontune.data.memory_budget import MemoryBudget
from visiontune.data.metadata import exif_orientation, strip, xmp_orientation
from visiontune.errors import UserError, pluralize

HEIC_SUFFIXES = (".heic", ".heif", ".hif")
SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".ppm", ".pgm", ".pbm"]
).union(HEIC_SUFFIXES)
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "AVIF", "PPM")
PROBLEMS = (OSError, ValueError)  # what `open_image` raises

# A photo of 200 megapixels needs 1.4 GB while it is decoded; Pillow alone refuses images above 179 megapixels.
MAX_PIXELS = 180_000_000
BYTES_PER_PIXEL = 7  # while an image is decoded: four of Pillow, three of the result
# Decoders that need more memory: an image counts as one with so many times as many pixels.
MEMORY_FACTORS = {"WEBP": 3, "AVIF": 2, "HEIF": 2, "TIFF": 1.5}
PROGRESSIVE_FACTOR = 2
BUDGET = MemoryBudget(1_000_000_000)  # of all images that this process decodes at the same time

# `open_image` checks the size instead, with a limit that the user can set.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of damaged metadata with the name of its module; damaged pixels are errors.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class ImageFile(NamedTuple):
    """An opened file.

    Attributes:
        image: of the first page or frame, with stored pixels; `image.load()` decodes them.
        orientation: EXIF orientation, 1 to 8.
        several: whether the file holds further images; unknown for some formats, see `has_several`.
        weight: number of pixels, more for a format whose decoder needs more memory than that of a photo.
    """

    image: Image.Image
    orientation: int
    several: bool
    weight: int


@contextmanager
def open_image(source: Path | bytes, max_pixels: int | None = None, header: bool = False) -> Iterator[ImageFile]:
    """Open a file of any supported format; the suffix does not matter.

    Args:
        source: a path, or the bytes of a file.
        max_pixels: refuse larger images before they are decoded.
        header: read only what is needed for size, mode and orientation.

    Raises:
        OSError, ValueError: the file cannot be read, is not an image or is too large. Errors that occur in the context
            are converted as well.
        UserError: the format needs an extra that is not installed.
    """
    try:
        with BytesIO(source) if isinstance(source, bytes) else _open(source) as file:
            if not file.read(1):
                raise ValueError("the file is empty")
            file.seek(0)
            stream, orientation, several = strip(file, header)
            with Image.open(stream, formats=_formats(stream)) as image:
                orientation = orientation or stored_orientation(image)
                weight = _weigh(image)
                if problem := describe_excess(image.size, weight, max_pixels):
                    raise ValueError(problem)
                yield ImageFile(image, orientation, several, weight)
    except (OSError, ValueError, UserError):
        raise
    except MemoryError as error:
        raise ValueError("decoding it needs more memory than there is") from error
    except Exception as error:  # Pillow raises errors of any type for a damaged file
        raise ValueError(f"damaged: {error}" if str(error) else "damaged") from error


def stored_orientation(image: Image.Image) -> int:
    """EXIF orientation (1 to 8) of an opened image, 1 if it has none or its EXIF is damaged."""
    exif, xmp = image.info.get("exif"), image.info.get("xmp")
    orientation = exif_orientation(exif) if isinstance(exif, bytes) else None
    return orientation or (xmp_orientation(xmp) if isinstance(xmp, bytes | str) else None) or 1


def has_several(file: ImageFile) -> bool:
    """Whether a decoded file holds further images: pages, frames, or a second photo."""
    try:
        return file.several or bool(getattr(file.image, "is_animated", False))
    except Exception:  # the second image is damaged; it is not used
        return True


def check_extras(paths: Iterable[str | Path]) -> None:
    """Raise UserError if there are HEIC files, and the extra that reads them is not installed."""
    if files := [path for path in paths if str(path).lower().endswith(HEIC_SUFFIXES)]:
        try:
            _register_heic()
        except UserError as error:
            raise UserError(
                f"{pluralize(len(files), 'image is', 'images are')} HEIC, such as {files[0]}. {error}"
            ) from error


def reason(error: BaseException) -> str:
    """A short description of an error, without the memory addresses and source lines that decoders add."""
    text = str(error).strip().split("\n")[0]
    if "cannot identify image file" in text:
        return "not an image"
    if "truncated" in str(error).lower() or "incomplete" in text:
        return "truncated"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return text[:200] or type(error).__name__


def _open(path: Path) -> BinaryIO:
    if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
        raise ValueError("it is not a file")
    return path.open("rb")


def describe_excess(size: tuple[int, int], weight: int, max_pixels: int | None) -> str:
    """Why an image of `size` (width, height) is too large, see `ImageFile.weight`; empty if it is not."""
    if max_pixels is None or weight <= max_pixels:
        return ""
    width, height = size
    factor = round(weight / (width * height), 1)
    more = f", and its decoder needs {factor:g} times the memory of other images" if factor > 1 else ""
    return (
        f"it has {width} x {height} pixels{more}; data.max_pixels={max_pixels} is the limit. "
        f"Write data.max_pixels={weight} to read it"
    )


def _weigh(image: Image.Image) -> int:
    """See `ImageFile.weight`. Raises ValueError if there are no pixels."""
    width, height = image.size
    if width < 1 or height < 1:
        raise ValueError(f"it has {width} x {height} pixels")
    factor = MEMORY_FACTORS.get(image.format or "", 1)
    return round(width * height * (PROGRESSIVE_FACTOR if image.info.get("progressive") else factor))


def _formats(stream: BinaryIO) -> tuple[str, ...]:
    """The formats that Pillow tries; HEIC if the stream is one (phones also write it into .jpg)."""
    start = stream.read(64)
    stream.seek(0)
    if start[4:8] == b"ftyp" and any(start[at : at + 4] in HEIC_BRANDS for at in (8, *range(16, 64, 4))):
        _register_heic()
        return ("HEIF",)
    return FORMATS


def _register_heic() -> None:
    try:
        import pi_heif
    except ImportError as error:
        raise UserError("HEIC needs pi-heif, an extra of this package: pip install 'visiontune[heic]'") from error
    if "HEIF" not in Image.OPEN:
        pi_heif.register_heif_opener()
