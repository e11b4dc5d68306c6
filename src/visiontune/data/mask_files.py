"""Files of masks: the value of each pixel, read once and cached."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visiontune.data.bad_files import BadFiles
from visiontune.data.fingerprint import hash_mask
from visiontune.data.image_files import BUDGET, BYTES_PER_PIXEL, has_several, open_image
from visiontune.data.images import DECODER, ImageDecoder
from visiontune.data.pixels import strips
from visiontune.data.scan import scan
from visiontune.data.targets import IGNORE
from visiontune.errors import UserError, listed, pluralize, some


def read_masks(
    root: Path,
    paths: Sequence[str],
    colours: bool = False,
    decoder: ImageDecoder = DECODER,
    bad: BadFiles | None = None,
) -> dict[str, dict[str, Any]]:
    """path -> what is read from each file; results are cached.

    `size` is (H, W), `values` those that occur, `content` a hash of the pixels, and `several` says whether the file
    has further pages.

    Args:
        bad: decides what happens to files that cannot be read as masks, which the result does not have.

    Raises:
        UserError: lists the files that cannot be read as masks.
    """
    kind = f"mask-{'colours' if colours else 'values'}-pages-{decoder.name}"
    return scan(root, paths, partial(_read_mask, colours=colours, decoder=decoder), kind, bad)


def check_mask_sizes(
    masks: Mapping[str, str], contents: Mapping[str, Any], sizes: Mapping[str, tuple[int, int]]
) -> None:
    """Compare the size of each mask with that of its image.

    Args:
        masks: image -> mask.
        contents: mask -> a mapping with its `size`.
        sizes: image -> (H, W).

    Raises:
        UserError: lists the masks of another size.
    """
    wrong = [
        f"{mask}: {describe_size(contents[mask]['size'])}, its image {image} has {describe_size(sizes[image])}"
        for image, mask in masks.items()
        if tuple(contents[mask]["size"]) != sizes[image]
    ]
    if wrong:
        raise UserError(
            f"{len(wrong)} masks have another size than their images; repair or remove them:{listed(wrong)}"
        )


def page_notes(masks: Sequence[str]) -> list[str]:
    """A note on masks with several pages."""
    count = pluralize(len(masks), "mask has", "masks have")
    return [f"{count} several pages or frames, of which the first is used: {some(masks)}"] if masks else []


def describe_size(size: Sequence[int]) -> str:
    """(H, W) as text, width first."""
    return f"{size[1]}x{size[0]} pixels"


def _read_mask(path: Path, colours: bool, decoder: ImageDecoder) -> dict[str, Any]:
    codes, several = read_codes(path, colours, decoder)
    # A photo instead of a mask has thousands of values: keep only enough of them for the error message.
    values = np.unique(codes)[: 2 * IGNORE].tolist()
    return {"size": list(codes.shape), "values": values, "content": hash_mask(codes), "several": several}


def pixel_codes(path: Path, colours: bool, decoder: ImageDecoder = DECODER) -> np.ndarray:
    """``(H, W)`` grey values or palette indices; with `colours`, each color as one number 0xRRGGBB.

    Args:
        decoder: says whether EXIF orientation is applied, and how large a mask may be.
    """
    return read_codes(path, colours, decoder)[0]


def read_codes(path: Path, colours: bool, decoder: ImageDecoder = DECODER) -> tuple[np.ndarray, bool]:
    """`pixel_codes`, and whether the file has further pages."""
    with open_image(path, decoder.max_pixels) as file, BUDGET.reserve(file.weight * BYTES_PER_PIXEL):
        image = file.image
        image.load()
        pixels = _rgb_codes(image) if colours else np.asarray(image)
        several = has_several(file)
    pixels = decoder.turn(pixels, file.orientation)
    if colours:
        return pixels, several
    if pixels.ndim == 3:
        bands = pixels[..., : 1 if pixels.shape[2] == 2 else 3]  # the last band is transparency
        if (bands != bands[..., :1]).any():
            raise ValueError("it has colors: write data.values=[[RED, GREEN, BLUE], ...], one per class")
        pixels = bands[..., 0]
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8), several
    if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() >= 1 << 16:
        raise ValueError("its values are not integers from 0 to 65535")
    return pixels, several


def _rgb_codes(image: Image.Image) -> np.ndarray:
    codes = np.empty(image.size[::-1], dtype=np.int32)
    for top, strip in strips(image):
        parts = np.asarray(strip.convert("RGB"), dtype=np.int32)
        codes[top : top + len(parts)] = (parts[..., 0] << 16) + (parts[..., 1] << 8) + parts[..., 2]
    return codes
