"""Segmentation: a folder of images and a folder of masks with the same names."""

from pathlib import Path

from visiontune.data.label_maps import Coding, Value, label_maps, read_masks
from visiontune.data.readers.folders import (
    PerSplit,
    by_stem,
    image_files,
    per_split,
    relative,
    require_folder,
    root_folder,
)
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.scan import read_image_sizes
from visiontune.data.schema import Sample, Source, TaskInfo
from visiontune.errors import UserError, listed, some


def read(
    root: str | Path | None,
    images: PerSplit = "images",
    masks: PerSplit = "masks",
    classes: list[str] | None = None,
    values: list[Value] | None = None,
    ignore_value: Value | None = None,
    splits: str | None = None,
) -> Source:
    """Read images and masks with the same relative path and stem; images without a mask are left out.

    Args:
        root: the data folder; the other paths are relative to it.
        images: a folder, or split -> folder.
        masks: a folder, or split -> folder. In a folder that also holds the images, the masks are the PNG files.
        classes: names in label order.
        values: the value of each class: a grey value, a palette index or `[RED, GREEN, BLUE]`; by default 0, 1, 2, ...
        ignore_value: the value of unlabelled pixels; by default 255, if no class has it.
        splits: folder with `{train,val,test}.txt`.

    Raises:
        UserError: a folder or an image is missing, or a mask has another size than its image or an unknown value.
    """
    root = root_folder(root)
    folders = _folders(per_split(images, "data.images"), per_split(masks, "data.masks"))
    pairs: dict[str, str] = {}
    unmasked: list[str] = []
    all_masks: set[str] = set()
    image_splits: dict[str, str | None] = {}
    for split, (image_folder, mask_folder) in folders.items():
        base = require_folder(root / image_folder, "data.images")
        mask_base = require_folder(root / mask_folder, "data.masks")
        images_by_stem, masks_by_stem = _files(root, base, mask_base)
        matches = {path: masks_by_stem[stem] for stem, path in images_by_stem.items() if stem in masks_by_stem}
        if not matches:
            name = next(iter(images_by_stem), "NAME")
            what = "no mask for any image" if images_by_stem else "masks, but no images"
            raise UserError(f"{mask_base} has {what} in {base}. The mask of {name}.jpg must be called {name}.png")
        if duplicates := sorted(set(matches) & set(pairs)):
            raise UserError(
                f"{duplicates[0]} is in both {image_splits[duplicates[0]]} and {split}. A sample has one split."
            )
        pairs |= matches
        unmasked += [path for stem, path in images_by_stem.items() if stem not in masks_by_stem]
        all_masks |= set(masks_by_stem.values())
        image_splits |= dict.fromkeys(matches, split)
    if unmatched := sorted(all_masks - set(pairs.values())):
        raise UserError(f"{len(unmatched)} masks have no image of the same name; add or remove:{listed(unmatched)}")
    samples = [Sample(path, {}, image_splits[path]) for path in sorted(pairs)]
    notes = [f"{len(unmasked)} images without a mask are left out: {some(sorted(unmasked))}"] if unmasked else []
    if splits:
        samples, new_notes = apply_split_lists(samples, root, [folder for folder, _ in folders.values()], root / splits)
        notes += new_notes
    masks_by_image = {sample.path: pairs[sample.path] for sample in samples}
    if not classes:
        codes = sorted(
            {value for mask in read_masks(root, [*masks_by_image.values()]).values() for value in mask["values"]}
        )
        raise UserError(
            f"data.classes is not set: the masks have the values {some([str(value) for value in codes], 20)}. Write "
            f"data.classes=[NAME, NAME, ...] and, if they are not 0, 1, 2, ..., data.values=[...] of each class"
        )
    if len(set(classes)) < len(classes):
        raise UserError(f"data.classes={classes}: two classes have the same name")
    coding = Coding(classes, values, ignore_value)
    targets = label_maps(root, masks_by_image, read_image_sizes(root, masks_by_image), coding)
    for sample in samples:
        sample.targets["segmentation"] = targets[sample.path]
    return Source({"segmentation": TaskInfo("segmentation", list(classes))}, samples, notes, root)


def _folders(images: dict[str | None, str], masks: dict[str | None, str]) -> dict[str | None, tuple[str, str]]:
    """split -> (image folder, mask folder)."""
    if None not in images and None not in masks and set(images) != set(masks):
        raise UserError(f"data.images={images} and data.masks={masks}: expected the same splits")
    if None in images and None not in masks:
        raise UserError(
            f"data.masks={masks} has one folder per split, data.images={images[None]} has not: "
            "write data.images='{train: DIR, val: DIR}'"
        )
    return {split: (folder, masks.get(split) or masks[None]) for split, folder in images.items()}


def _files(root: Path, images: Path, masks: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Images and masks, each as a mapping stem -> path under the root."""
    image_paths = image_files(images, without=[masks] if masks != images else [])
    mask_paths = image_files(masks, without=[images] if masks != images else [])
    if masks == images:
        image_paths = [path for path in image_paths if path.suffix.lower() != ".png"]
        mask_paths = [path for path in mask_paths if path.suffix.lower() == ".png"]
    return (
        {stem: relative(path, root) for stem, path in by_stem(image_paths, images).items()},
        {stem: relative(path, root) for stem, path in by_stem(mask_paths, masks).items()},
    )
