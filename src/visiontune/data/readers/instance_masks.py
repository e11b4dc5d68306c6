"""Detection and instances from masks: each object of an image has a unique value, and 0 is the background."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import find_objects
from torch import Tensor

from visiontune.data.bad_files import BadFiles
from visiontune.data.boxes import StoredBoxes
from visiontune.data.fingerprint import hash_mask
from visiontune.data.image_files import MAX_PIXELS, PROBLEMS, reason
from visiontune.data.images import ImageDecoder
from visiontune.data.mask_files import check_mask_sizes, describe_size, page_notes, pixel_codes, read_codes
from visiontune.data.readers.class_names import class_names
from visiontune.data.readers.folders import PerSplit, per_split, root_folder
from visiontune.data.readers.mask_pairs import pair_masks
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.scan import orientation_note, read_image_sizes, scan
from visiontune.data.schema import Source, TaskInfo
from visiontune.data.targets import objects
from visiontune.errors import UserError


@dataclass(frozen=True, eq=False)
class StoredInstanceMask:
    """An instances target in a mask file.

    Attributes:
        values: pixel value of each box.
        content: hash of all pixels.
    """

    path: Path
    boxes: StoredBoxes
    values: list[int]
    content: str
    decoder: ImageDecoder

    @property
    def labels(self) -> list[int]:
        return self.boxes.labels

    def load(self, size: tuple[int, int]) -> dict[str, Tensor]:
        target = self.boxes.load(size)
        try:
            codes = pixel_codes(self.path, colours=False, decoder=self.decoder)
        except PROBLEMS as error:
            raise UserError(f"{self.path}: cannot be read as a mask ({reason(error)})") from error
        if codes.shape != size:
            raise UserError(f"{self.path}: the mask has {describe_size(codes.shape)}, its image {describe_size(size)}")
        masks = torch.from_numpy(codes == np.array(self.values, dtype=np.int64)[:, None, None])
        return objects(target["boxes"], target["labels"], size, masks=masks)


def read(
    root: str | Path | None,
    images: PerSplit = "images",
    masks: PerSplit = "masks",
    suffix: str = "",
    classes: list[str] | None = None,
    ignore_value: int | None = None,
    splits: str | None = None,
    orientation: str = "apply",
    on_bad_image: str = "error",
    max_pixels: int | None = MAX_PIXELS,
) -> Source:
    """Read images and masks with the same relative path and stem; images without a mask are left out.

    Args:
        root: the data folder; the other paths are relative to it.
        images: a folder, or split -> folder; so is `masks`.
        suffix: the end of a mask's stem, after the stem of its image, such as `_mask`.
        classes: a list with the single class of all objects.
        ignore_value: a value besides 0 of pixels that belong to no object.
        splits: folder with `{train,val,test}.txt`.
        orientation: whether images and masks are turned (`apply`) or not (`ignore`) as their EXIF orientation says.
        on_bad_image: what happens to images and masks that cannot be read: `error`, or `skip` to leave them out.
        max_pixels: larger images and masks cannot be read.

    Raises:
        UserError: a folder or an image is missing, a mask has another name or size than its image, or all masks are
            empty.
    """
    root = root_folder(root)
    if not classes or len(classes) != 1:
        raise UserError(
            f"data.classes={classes}: expected one class, since these masks hold objects and not classes; write e.g. "
            f"data.classes=[person]"
        )
    image_folders, mask_folders = per_split(images, "data.images"), per_split(masks, "data.masks")
    if not suffix and {*map(Path, image_folders.values())} & {*map(Path, mask_folders.values())}:
        raise UserError(
            "data.images and data.masks are the same folder: write how names of masks end, such as data.suffix=_mask"
        )
    pairs = pair_masks(root, images, masks, suffix)
    samples, notes = pairs.samples(), pairs.notes
    if splits:
        samples, new_notes = apply_split_lists(samples, root, pairs.folders, root / splits, "mask")
        notes += new_notes
    bad_files, decoder = BadFiles(on_bad_image), ImageDecoder(orientation=orientation, max_pixels=max_pixels)
    sizes = read_image_sizes(root, [sample.path for sample in samples], decoder, bad_files)
    kind = f"instance-masks-pages-{decoder.name}"
    contents = scan(root, [pairs.masks[path] for path in sizes], partial(_read_mask, decoder=decoder), kind, bad_files)
    masks_by_image = {path: pairs.masks[path] for path in sizes if pairs.masks[path] in contents}
    check_mask_sizes(masks_by_image, contents, sizes)
    notes += bad_files.notes() + orientation_note(root, list(masks_by_image), orientation)
    notes += page_notes([mask for mask in masks_by_image.values() if contents[mask]["several"]])
    samples = [sample for sample in samples if sample.path in masks_by_image]
    for sample in samples:
        mask = masks_by_image[sample.path]
        instances = [(code, box) for code, box in contents[mask]["objects"] if code != ignore_value]
        corners = np.array([box for _, box in instances], dtype=np.float32).reshape(-1, 4)
        boxes = StoredBoxes(corners, [0] * len(instances), [False] * len(instances), sizes[sample.path])
        sample.targets["detection"] = boxes
        values = [code for code, _ in instances]
        stored = StoredInstanceMask(root / mask, boxes, values, contents[mask]["content"], decoder)
        sample.targets["instances"] = stored
    if samples and not any(sample.targets["detection"].labels for sample in samples):
        raise UserError(f"the {len(samples)} masks in {masks} contain no objects: all pixels are 0")
    schema = {task: TaskInfo(task, class_names(classes)) for task in ("detection", "instances")}
    return Source(schema, samples, notes, root)


def _read_mask(path: Path, decoder: ImageDecoder) -> dict[str, Any]:
    """`size` (H, W), `content` (a hash of the pixels), `several` pages or not, and `objects`: pairs of value and box.

    A box is x1, y1, x2, y2 and includes the last pixel.
    """
    codes, several = read_codes(path, colours=False, decoder=decoder)
    places = enumerate(find_objects(codes.astype(np.int32)), start=1)  # None for a value that does not occur
    instances = [[code, [at[1].start, at[0].start, at[1].stop, at[0].stop]] for code, at in places if at is not None]
    return {"size": list(codes.shape), "objects": instances, "content": hash_mask(codes), "several": several}
