"""Segmentation: a folder of images and a folder of masks with the same names."""

from pathlib import Path

from visiontune.data.bad_files import BadFiles
from visiontune.data.image_files import MAX_PIXELS
from visiontune.data.images import ImageDecoder
from visiontune.data.label_maps import Coding, Value, label_map_notes, label_maps
from visiontune.data.mask_files import read_masks
from visiontune.data.readers.class_names import class_names
from visiontune.data.readers.folders import PerSplit, root_folder
from visiontune.data.readers.mask_pairs import pair_masks
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.scan import orientation_note, read_image_sizes
from visiontune.data.schema import Source, TaskInfo
from visiontune.errors import UserError, add_notes, some


def read(
    root: str | Path | None,
    images: PerSplit = "images",
    masks: PerSplit = "masks",
    classes: list[str] | None = None,
    values: list[Value] | None = None,
    ignore_value: Value | None = None,
    splits: str | None = None,
    suffix: str = "",
    orientation: str = "apply",
    on_bad_image: str = "error",
    max_pixels: int | None = MAX_PIXELS,
) -> Source:
    """Read images and masks with the same relative path and stem; images without a mask are left out.

    Args:
        root: the data folder; the other paths are relative to it.
        images: a folder, or split -> folder.
        masks: a folder, or split -> folder. In a folder that also holds the images, the masks are the files with the
            suffix, or without a suffix the PNG files.
        classes: names in label order.
        values: the value of each class: a grey value, a palette index or `[RED, GREEN, BLUE]`; by default 0, 1, 2, ...
        ignore_value: the value of unlabelled pixels; by default 255, if no class has it.
        splits: folder with `{train,val,test}.txt`.
        suffix: the end of a mask's stem, after the stem of its image, such as `_mask`.
        orientation: whether images and masks are turned (`apply`) or not (`ignore`) as their EXIF orientation says.
        on_bad_image: what happens to images and masks that cannot be read: `error`, or `skip` to leave them out.
        max_pixels: larger images and masks cannot be read.

    Raises:
        UserError: a folder or an image is missing, or a mask has another size than its image or an unknown value.
    """
    root = root_folder(root)
    pairs = pair_masks(root, images, masks, suffix)
    samples, notes = pairs.samples(), pairs.notes
    if splits:
        samples, new_notes = apply_split_lists(samples, root, pairs.folders, root / splits, "mask")
        notes += new_notes
    bad_files, decoder = BadFiles(on_bad_image), ImageDecoder(orientation=orientation, max_pixels=max_pixels)
    sizes = read_image_sizes(root, [sample.path for sample in samples], decoder, bad_files)
    masks_by_image = {path: pairs.masks[path] for path in sizes}
    if not classes:
        contents = read_masks(root, [*masks_by_image.values()], decoder=decoder, bad=bad_files)
        codes = [str(code) for code in sorted({code for mask in contents.values() for code in mask["values"]})]
        values_in_masks = f"the masks have the values {some(codes, 20)}" if codes else "no mask can be read"
        message = (
            f"data.classes is not set: {values_in_masks}. Write data.classes=[NAME, NAME, ...] and, if they are not "
            "0, 1, 2, ..., data.values=[...] of each class"
        )
        raise UserError(add_notes(message, bad_files.notes()))
    coding = Coding(class_names(classes), values, ignore_value, decoder)
    targets = label_maps(root, masks_by_image, sizes, coding, bad_files)
    notes += bad_files.notes() + orientation_note(root, list(targets), orientation) + label_map_notes(root, targets)
    samples = [sample for sample in samples if sample.path in targets]
    for sample in samples:
        sample.targets["segmentation"] = targets[sample.path]
    return Source({"segmentation": TaskInfo("segmentation", coding.classes)}, samples, notes, root)
