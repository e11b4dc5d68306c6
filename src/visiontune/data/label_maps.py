"""Masks: image files that say the class of each pixel by its value, its palette index or its colour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from visiontune.data.fingerprint import content_of
from visiontune.data.images import PROBLEMS, reason
from visiontune.data.scan import scan
from visiontune.data.targets import IGNORE, LabelMap
from visiontune.errors import UserError, listed, some

Value = int | Sequence[int]  # a number, or red, green and blue


class Coding:
    """Which value in a mask stands for which class.

    Args:
        classes: names, in label order.
        values: of each class; by default 0, 1, 2, ...
        ignore: the value of pixels without a truth; by default 255 where no class has it.

    Raises:
        UserError: these do not fit together.
    """

    def __init__(self, classes: Sequence[str], values: Sequence[Value] | None = None, ignore: Value | None = None):
        chosen = list(range(len(classes))) if values is None else list(values)
        if len(chosen) != len(classes):
            raise UserError(f"data.values has {len(chosen)} values for {len(classes)} classes: write one a class")
        if len(classes) > IGNORE:
            raise UserError(f"data.classes has {len(classes)} names: a mask can tell {IGNORE} classes")
        self.classes = list(classes)
        self.colours = any(not isinstance(value, int) for value in chosen)
        self.codes = [self._code(value, "data.values") for value in chosen]
        if len(set(self.codes)) < len(self.codes):
            raise UserError(f"data.values={chosen}: two classes have the same value")
        self.said_ignore = ignore is not None
        if ignore is not None:
            self.ignore: int | None = self._code(ignore, "data.ignore_value")
            if self.ignore in self.codes:
                name = self.classes[self.codes.index(self.ignore)]
                raise UserError(f"data.ignore_value={ignore} is the value of class {name!r}: write another data.values")
        else:
            self.ignore = IGNORE if not self.colours and IGNORE not in self.codes else None
        self.table = np.full(1 << (24 if self.colours else 16), IGNORE, dtype=np.uint8)
        self.table[self.codes] = np.arange(len(self.codes), dtype=np.uint8)

    def _code(self, value: Value, key: str) -> int:
        if self.colours:
            if isinstance(value, int) or len(value) != 3 or not all(0 <= part <= 255 for part in value):
                raise UserError(f"{key}: {value} is no colour: write [RED, GREEN, BLUE], each from 0 to 255")
            return (value[0] << 16) + (value[1] << 8) + value[2]
        if not isinstance(value, int) or not 0 <= value < 1 << 16:
            raise UserError(f"{key}: {value} is no pixel value: write a number from 0 to 65535")
        return value

    def show(self, code: int) -> str:
        return str([code >> 16, code >> 8 & 255, code & 255]) if self.colours else str(code)


@dataclass(frozen=True, eq=False)
class StoredLabelMap:
    """A segmentation target in a file; `labels` are the classes that occur in it, `content` the hash of its pixels."""

    path: Path
    labels: list[int]
    coding: Coding
    content: str

    def load(self, size: tuple[int, int]) -> LabelMap:
        try:
            codes = pixel_codes(self.path, self.coding.colours)
        except PROBLEMS as error:
            raise UserError(f"{self.path}: cannot be read as a mask ({reason(error)})") from error
        if codes.shape != size:
            raise UserError(f"{self.path}: {_pixels(codes.shape)}, its image has {_pixels(size)}")
        return LabelMap(torch.from_numpy(self.coding.table[codes]))


def look_at_masks(root: Path, paths: Sequence[str], colours: bool = False) -> dict[str, dict[str, Any]]:
    """path -> `size` (H, W), `values` and `content` (a hash of the pixels) of each file, remembered.

    Raises:
        UserError: lists the files that are no masks.
    """
    look = _look_at_colours if colours else _look_at_values
    return scan(root, paths, look, "mask-colours-hashed" if colours else "mask-values-hashed")


def label_maps(
    root: Path, masks: Mapping[str, str], sizes: Mapping[str, tuple[int, int]], coding: Coding
) -> dict[str, StoredLabelMap]:
    """image -> its target, for a mapping image -> mask; paths are relative to the root.

    Raises:
        UserError: a mask cannot be read, has another size than its image, or a value that stands for no class.
    """
    seen = look_at_masks(root, sorted(masks.values()), coding.colours)
    wrong = [
        f"{mask}: {_pixels(seen[mask]['size'])}, its image {picture} has {_pixels(sizes[picture])}"
        for picture, mask in masks.items()
        if tuple(seen[mask]["size"]) != sizes[picture]
    ]
    if wrong:
        raise UserError(f"{len(wrong)} masks are not of the size of their images; repair or remove:{listed(wrong)}")
    label_of = {code: label for label, code in enumerate(coding.codes)}
    known = {*label_of, coding.ignore}
    strange = {mask: [code for code in seen[mask]["values"] if code not in known] for mask in masks.values()}
    if lines := [f"{mask}: {some([coding.show(c) for c in codes], 5)}" for mask, codes in strange.items() if codes]:
        first = coding.show(next(filter(None, strange.values()))[0])
        raise UserError(
            f"{len(lines)} masks have values that stand for no class; the classes have "
            f"{some([coding.show(code) for code in coding.codes], 12)}. Write data.classes and data.values for more of "
            f"them, or data.ignore_value={first} to ignore one:{listed(lines)}"
        )
    _check_ignored(coding, {code for mask in masks.values() for code in seen[mask]["values"]})
    return {
        picture: StoredLabelMap(
            root / mask,
            sorted(label_of[code] for code in seen[mask]["values"] if code in label_of),
            coding,
            seen[mask]["content"],
        )
        for picture, mask in masks.items()
    }


def _check_ignored(coding: Coding, found: set[int]) -> None:
    """Black and white masks, whose white nobody said to ignore, have their objects ignored."""
    present = found & set(coding.codes)
    if not coding.said_ignore and coding.ignore in found and len(present) < 2 <= len(coding.codes):
        codes = [*sorted(present), IGNORE]
        raise UserError(
            f"the masks hold the values {', '.join(map(str, codes))} alone, and {IGNORE} is ignored by default. Write "
            f"data.values={codes} where {IGNORE} is a class, or data.ignore_value={IGNORE} where it is none."
        )


def _look_at_values(path: Path) -> dict[str, Any]:
    return _look(path, colours=False)


def _look_at_colours(path: Path) -> dict[str, Any]:
    return _look(path, colours=True)


def _look(path: Path, colours: bool) -> dict[str, Any]:
    codes = pixel_codes(path, colours)
    # A photo in place of a mask has thousands of values; more than there can be classes are enough to tell.
    values = np.unique(codes)[: 2 * IGNORE].tolist()
    return {"size": list(codes.shape), "values": values, "content": content_of(codes)}


def pixel_codes(path: Path, colours: bool) -> np.ndarray:
    """``(H, W)`` of values (the index where there is a palette), or of colours as one number."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if colours:
            parts = np.asarray(image.convert("RGB"), dtype=np.int32)
            return (parts[..., 0] << 16) + (parts[..., 1] << 8) + parts[..., 2]
        pixels = np.asarray(image)
    if pixels.ndim == 3:
        bands = pixels[..., : 1 if pixels.shape[2] == 2 else 3]  # what is left out is transparency
        if (bands != bands[..., :1]).any():
            raise ValueError("it has colours: write data.values=[[RED, GREEN, BLUE], ...], one a class")
        pixels = bands[..., 0]
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8)
    if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() >= 1 << 16:
        raise ValueError("its values are not whole numbers from 0 to 65535")
    return pixels


def _pixels(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]} pixels"
