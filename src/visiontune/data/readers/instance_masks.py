"""Detection and instances as a mask an image, in which every object has a value of its own and 0 is the background."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import find_objects
from torch import Tensor

from visiontune.data.boxes import StoredBoxes
from visiontune.data.fingerprint import content_of
from visiontune.data.images import PROBLEMS, reason
from visiontune.data.label_maps import pixel_codes
from visiontune.data.readers.folders import by_stem, existing, image_files, relative, root_folder
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.scan import read_image_sizes, scan
from visiontune.data.schema import Sample, Source, TaskInfo
from visiontune.data.targets import objects
from visiontune.errors import UserError, listed, some


@dataclass(frozen=True, eq=False)
class StoredInstanceMask:
    """An instances target in a file: of each box the pixels with its value. `content` is the hash of all pixels."""

    path: Path
    boxes: StoredBoxes
    values: list[int]
    content: str

    @property
    def labels(self) -> list[int]:
        return self.boxes.labels

    def load(self, size: tuple[int, int]) -> dict[str, Tensor]:
        target = self.boxes.load(size)
        try:
            codes = pixel_codes(self.path, colours=False)
        except PROBLEMS as error:
            raise UserError(f"{self.path}: cannot be read as a mask ({reason(error)})") from error
        if codes.shape != size:
            raise UserError(f"{self.path}: {_pixels(codes.shape)}, its image has {_pixels(size)}")
        masks = torch.from_numpy(codes == np.array(self.values, dtype=np.int64)[:, None, None])
        return objects(target["boxes"], target["labels"], size, masks=masks)


def read(
    root: str | Path | None,
    images: str = "images",
    masks: str = "masks",
    suffix: str = "",
    classes: list[str] | None = None,
    ignore_value: int | None = None,
    splits: str | None = None,
) -> Source:
    """Read images and masks of the same path and stem within their folders; an image without mask is left out.

    Args:
        root: the data folder; the other paths are relative to it.
        suffix: what the stem of a mask has after that of its image, such as `_mask`.
        classes: the one class that every object is of.
        ignore_value: of pixels that belong to no object, beside 0.
        splits: folder with `{train,val,test}.txt`.

    Raises:
        UserError: a folder or an image is missing, a mask is not called or not sized like its image, or nothing is
            in any of them.
    """
    root = root_folder(root)
    if not classes or len(classes) != 1:
        raise UserError(
            f"data.classes={classes}: these masks tell objects apart, not classes. Write the one class that all are "
            f"of, such as data.classes=[person]"
        )
    base, mask_base = existing(root / images, "data.images"), existing(root / masks, "data.masks")
    pairs, notes = _pairs(root, base, mask_base, suffix)
    samples = [Sample(path, {}) for path in sorted(pairs)]
    if splits:
        samples, more = apply_split_lists(samples, root, images, root / splits)
        notes += more
    paths = [sample.path for sample in samples]
    sizes = read_image_sizes(root, paths)
    seen = scan(root, [pairs[path] for path in paths], _look, "instance-masks-hashed")
    wrong = [
        f"{pairs[path]}: {_pixels(seen[pairs[path]]['size'])}, its image {path} has {_pixels(sizes[path])}"
        for path in paths
        if tuple(seen[pairs[path]]["size"]) != sizes[path]
    ]
    if wrong:
        raise UserError(f"{len(wrong)} masks are not of the size of their images; repair or remove:{listed(wrong)}")
    for sample in samples:
        found = [(code, box) for code, box in seen[pairs[sample.path]]["objects"] if code != ignore_value]
        corners = np.array([box for _, box in found], dtype=np.float32).reshape(-1, 4)
        boxes = StoredBoxes(corners, [0] * len(found), [False] * len(found), sizes[sample.path])
        sample.targets["detection"] = boxes
        mask = pairs[sample.path]
        stored = StoredInstanceMask(root / mask, boxes, [code for code, _ in found], seen[mask]["content"])
        sample.targets["instances"] = stored
    if not any(sample.targets["detection"].labels for sample in samples):
        raise UserError(f"none of the {len(samples)} masks in {mask_base} has an object in it: all pixels are 0")
    schema = {task: TaskInfo(task, list(classes)) for task in ("detection", "instances")}
    return Source(schema, samples, notes, root)


def _pairs(root: Path, base: Path, mask_base: Path, suffix: str) -> tuple[dict[str, str], list[str]]:
    """image -> mask, both as paths under the root, and notes."""
    if base == mask_base and not suffix:
        raise UserError("data.images and data.masks are one folder: write what ends a mask's name, data.suffix=_mask")
    apart = base != mask_base
    drawn = by_stem(
        [path for path in image_files(mask_base, [base] if apart else []) if apart or path.stem.endswith(suffix)],
        mask_base,
    )
    found = by_stem(
        [path for path in image_files(base, [mask_base] if apart else []) if apart or path not in drawn.values()], base
    )
    named = {stem.removesuffix(suffix): path for stem, path in drawn.items() if stem.endswith(suffix)}
    pairs = {relative(path, root): relative(named[stem], root) for stem, path in found.items() if stem in named}
    if not pairs:
        name = next(iter(found), "NAME")
        what = "no mask for any image" if found else "masks, but there are no images"
        raise UserError(f"{mask_base} has {what} in {base}. The mask of {name}.jpg is called {name}{suffix}.png")
    if strangers := sorted({relative(path, root) for path in drawn.values()} - set(pairs.values())):
        raise UserError(f"{len(strangers)} masks have no image of their name; add it or remove:{listed(strangers)}")
    alone = sorted({relative(path, root) for path in found.values()} - set(pairs))
    return pairs, [f"{len(alone)} images without a mask are left out: {some(alone)}"] if alone else []


def _look(path: Path) -> dict[str, Any]:
    """`size` (H, W), `content` (a hash of the pixels), and `objects`: value, and x1, y1, x2, y2 up to the end of the
    last pixel."""
    codes = pixel_codes(path, colours=False)
    places = enumerate(find_objects(codes.astype(np.int32)), start=1)  # None for a value that does not occur
    found = [[code, [at[1].start, at[0].start, at[1].stop, at[0].stop]] for code, at in places if at is not None]
    return {"size": list(codes.shape), "objects": found, "content": content_of(codes)}


def _pixels(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]} pixels"
