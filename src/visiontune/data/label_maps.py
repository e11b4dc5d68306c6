"""Masks: image files that encode the class of each pixel as a grey value, a palette index or a color."""

import os
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from visiontune.data.bad_files import BadFiles
from visiontune.data.image_files import PROBLEMS, reason
from visiontune.data.images import DECODER, ImageDecoder
from visiontune.data.mask_files import check_mask_sizes, describe_size, page_notes, pixel_codes, read_masks
from visiontune.data.targets import IGNORE, LabelMap
from visiontune.errors import UserError, listed, pluralize, printable, some

Value = int | Sequence[int]  # a grey value or palette index, or [red, green, blue]


class Coding:
    """Maps the values in masks to class labels.

    Args:
        classes: names, in label order.
        values: the value of each class; by default 0, 1, 2, ...
        ignore: the value of unlabelled pixels; by default 255, if no class has it.
        decoder: says whether EXIF orientation is applied, and how large a mask may be.

    Raises:
        UserError: the arguments contradict each other.
    """

    def __init__(
        self,
        classes: Sequence[str],
        values: Sequence[Value] | None = None,
        ignore: Value | None = None,
        decoder: ImageDecoder = DECODER,
    ) -> None:
        class_values = list(range(len(classes))) if values is None else list(values)
        if len(class_values) != len(classes):
            raise UserError(
                f"data.values has {len(class_values)} values for {len(classes)} classes: write one value per class"
            )
        if len(classes) > IGNORE:
            raise UserError(f"data.classes has {len(classes)} names: a mask can have at most {IGNORE} classes")
        self.classes, self.decoder = list(classes), decoder
        self.colours = any(not isinstance(value, int) for value in class_values)
        self.codes = [self._code(value, "data.values") for value in class_values]
        if len(set(self.codes)) < len(self.codes):
            raise UserError(f"data.values={class_values}: two classes have the same value")
        self.has_ignore_value = ignore is not None
        if ignore is not None:
            self.ignore: int | None = self._code(ignore, "data.ignore_value")
            if self.ignore in self.codes:
                name = self.classes[self.codes.index(self.ignore)]
                raise UserError(f"data.ignore_value={ignore} is the value of class {name!r}: write another data.values")
        else:
            self.ignore = IGNORE if not self.colours and IGNORE not in self.codes else None
        self.table = np.full(1 << (24 if self.colours else 16), IGNORE, dtype=np.uint8)
        self.table[self.codes] = np.arange(len(self.codes), dtype=np.uint8)

    def select(self, names: Sequence[str]) -> "Coding":
        """The coding of some classes, in this order; the pixels of the others get the first one (the background)."""
        if list(names) == self.classes:
            return self
        labels = {name: label for label, name in enumerate(names)}
        coding = copy(self)
        coding.classes = list(names)
        coding.table = self.table.copy()
        coding.table[self.codes] = [labels.get(name, 0) for name in self.classes]
        return coding

    def _code(self, value: Value, key: str) -> int:
        if self.colours:
            if isinstance(value, int) or len(value) != 3 or not all(0 <= part <= 255 for part in value):
                raise UserError(f"{key}: {value} is not a color: write [RED, GREEN, BLUE], each from 0 to 255")
            return (value[0] << 16) + (value[1] << 8) + value[2]
        if not isinstance(value, int) or not 0 <= value < 1 << 16:
            raise UserError(f"{key}: {value} is not a pixel value: write a number from 0 to 65535")
        return value

    def labels(self, codes: np.ndarray) -> np.ndarray:
        """``(H, W)`` values -> class labels, uint8."""
        labels = np.empty(codes.shape, dtype=np.uint8)
        for row, values in zip(labels, codes, strict=True):  # NumPy needs 8 bytes for each index
            row[:] = self.table[values]
        return labels

    def show(self, code: int) -> str:
        """The value of a code as in `data.values`."""
        return str([code >> 16, code >> 8 & 255, code & 255]) if self.colours else str(code)


@dataclass(frozen=True, eq=False)
class StoredLabelMap:
    """A segmentation target in a file.

    Attributes:
        labels: the classes that occur in it.
        content: hash of its pixels.
        ignored: whether it has pixels of the value that is ignored by default.
        several: whether the file has further pages.
    """

    path: Path
    labels: list[int]
    coding: Coding
    content: str
    ignored: bool = False
    several: bool = False

    def load(self, size: tuple[int, int]) -> LabelMap:
        try:
            codes = pixel_codes(self.path, self.coding.colours, self.coding.decoder)
        except PROBLEMS as error:
            raise UserError(f"{printable(self.path)}: cannot be read as a mask ({reason(error)})") from error
        if codes.shape != size:
            raise UserError(
                f"{printable(self.path)}: the mask has {describe_size(codes.shape)}, its image {describe_size(size)}"
            )
        return LabelMap(torch.from_numpy(self.coding.labels(codes)))


def label_maps(
    root: Path,
    masks: Mapping[str, str],
    sizes: Mapping[str, tuple[int, int]],
    coding: Coding,
    bad: BadFiles | None = None,
) -> dict[str, StoredLabelMap]:
    """image -> its target, for a mapping image -> mask; paths are relative to the root.

    The result does not have images that are not in `sizes`, or whose mask cannot be read (if `bad` leaves it out).

    Raises:
        UserError: a mask cannot be read, has another size than its image, or has a value of no class.
    """
    masks = {image: mask for image, mask in masks.items() if image in sizes}
    contents = read_masks(root, sorted(masks.values()), coding.colours, coding.decoder, bad)
    masks = {image: mask for image, mask in masks.items() if mask in contents}
    check_mask_sizes(masks, contents, sizes)
    code_labels = {code: int(coding.table[code]) for code in coding.codes}
    known_codes = {*code_labels, coding.ignore}
    unknown_codes = {
        mask: [code for code in contents[mask]["values"] if code not in known_codes] for mask in masks.values()
    }
    if lines := [
        f"{mask}: {some([coding.show(c) for c in codes], 5)}" for mask, codes in unknown_codes.items() if codes
    ]:
        first = coding.show(next(filter(None, unknown_codes.values()))[0])
        is_jpeg = any(unknown_codes[mask] and mask.lower().endswith((".jpg", ".jpeg")) for mask in masks.values())
        jpeg = ". JPEG changes values: save masks as PNG when they are drawn" if is_jpeg else ""
        raise UserError(
            f"{len(lines)} masks have values that belong to no class; the classes have "
            f"{some([coding.show(code) for code in coding.codes], 12)}. Add them to data.classes and data.values, "
            f"or write data.ignore_value={first} to ignore a value{jpeg}:{listed(lines)}"
        )
    _check_ignored(coding, {code for mask in masks.values() for code in contents[mask]["values"]})
    return {
        image: StoredLabelMap(
            root / mask,
            sorted({code_labels[code] for code in contents[mask]["values"] if code in code_labels}),
            coding,
            contents[mask]["content"],
            not coding.has_ignore_value and coding.ignore in contents[mask]["values"],
            contents[mask]["several"],
        )
        for image, mask in masks.items()
    }


def label_map_notes(root: Path, targets: Mapping[str, StoredLabelMap]) -> list[str]:
    """Notes on what is not used of the masks."""
    ignored = [os.path.relpath(target.path, root) for target in targets.values() if target.ignored]
    count = pluralize(len(ignored), "mask has", "masks have")
    note = f"{count} pixels of the value {IGNORE}, which are ignored (data.ignore_value): {some(ignored)}"
    several = [os.path.relpath(target.path, root) for target in targets.values() if target.several]
    return [*([note] if ignored else []), *page_notes(several)]


def _check_ignored(coding: Coding, values: set[int]) -> None:
    """Refuse masks in which 255 probably means an object (black and white) but would be ignored by default."""
    present = values & set(coding.codes)
    if not coding.has_ignore_value and coding.ignore in values and len(present) < 2 <= len(coding.codes):
        codes = [*sorted(present), IGNORE]
        raise UserError(
            f"the masks have only the values {', '.join(map(str, codes))}, and {IGNORE} is ignored by default. Write "
            f"data.values={codes} if {IGNORE} is a class, or data.ignore_value={IGNORE} if it is not."
        )
