"""Segmentation: a folder of images, and one of masks with the same names."""

from pathlib import Path

from visiontune.data.label_maps import Coding, Value, label_maps, look_at_masks
from visiontune.data.readers.folders import PerSplit, by_stem, existing, image_files, per_split, relative, root_folder
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
    """Read images and masks of the same path and stem within their folders; an image without mask is left out.

    Args:
        root: the data folder; the other paths are relative to it.
        images: a folder, or one a split.
        masks: a folder (it may be that of the images; the masks are then its PNGs), or one a split.
        classes: names in label order.
        values: of each class in a mask: a grey value or palette index, or `[RED, GREEN, BLUE]`; by default 0, 1, 2, ...
        ignore_value: of pixels without a truth; by default 255, where no class has it.
        splits: folder with `{train,val,test}.txt`.

    Raises:
        UserError: a folder or an image is missing, or a mask is not of its image's size or has another value.
    """
    root = root_folder(root)
    folders = _folders(per_split(images, "data.images"), per_split(masks, "data.masks"))
    pairs: dict[str, str] = {}
    alone: list[str] = []
    drawn: set[str] = set()
    split_of: dict[str, str | None] = {}
    for split, (image_folder, mask_folder) in folders.items():
        base, mask_base = existing(root / image_folder, "data.images"), existing(root / mask_folder, "data.masks")
        found, masks_here = _files(root, base, mask_base)
        mine = {path: masks_here[stem] for stem, path in found.items() if stem in masks_here}
        if not mine:
            name = next(iter(found), "NAME")
            what = "no mask for any image" if found else "masks, but there are no images"
            raise UserError(f"{mask_base} has {what} in {base}. The mask of {name}.jpg is called {name}.png")
        if twice := sorted(set(mine) & set(pairs)):
            raise UserError(f"{twice[0]} is in both {split_of[twice[0]]} and {split}. A sample has one split.")
        pairs |= mine
        alone += [path for stem, path in found.items() if stem not in masks_here]
        drawn |= set(masks_here.values())
        split_of |= dict.fromkeys(mine, split)
    if strangers := sorted(drawn - set(pairs.values())):
        raise UserError(f"{len(strangers)} masks have no image of their name; add it or remove:{listed(strangers)}")
    samples = [Sample(path, {}, split_of[path]) for path in sorted(pairs)]
    notes = [f"{len(alone)} images without a mask are left out: {some(sorted(alone))}"] if alone else []
    if splits:
        samples, more = apply_split_lists(samples, root, [folder for folder, _ in folders.values()], root / splits)
        notes += more
    chosen = {sample.path: pairs[sample.path] for sample in samples}
    if not classes:
        seen = sorted(
            {value for found in look_at_masks(root, [*chosen.values()]).values() for value in found["values"]}
        )
        raise UserError(
            f"data.classes is not set: the masks have the values {some([str(value) for value in seen], 20)}. Write "
            f"data.classes=[NAME, NAME, ...] and, if they are not 0, 1, 2, ..., data.values=[...] of each class"
        )
    if len(set(classes)) < len(classes):
        raise UserError(f"data.classes={classes}: two classes have the same name")
    coding = Coding(classes, values, ignore_value)
    targets = label_maps(root, chosen, read_image_sizes(root, chosen), coding)
    for sample in samples:
        sample.targets["segmentation"] = targets[sample.path]
    return Source({"segmentation": TaskInfo("segmentation", list(classes))}, samples, notes, root)


def _folders(images: dict[str | None, str], masks: dict[str | None, str]) -> dict[str | None, tuple[str, str]]:
    """split -> folders of images and of masks."""
    if None not in images and None not in masks and set(images) != set(masks):
        raise UserError(f"data.images={images} and data.masks={masks} are not of the same splits")
    if None in images and None not in masks:
        raise UserError(f"data.masks={masks} is one a split, data.images={images[None]} is not: make both so")
    return {split: (folder, masks.get(split) or masks[None]) for split, folder in images.items()}


def _files(root: Path, images: Path, masks: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Images and masks, each as stem -> path under the root."""
    found = image_files(images, without=[masks] if masks != images else [])
    drawn = image_files(masks, without=[images] if masks != images else [])
    if masks == images:
        found = [path for path in found if path.suffix.lower() != ".png"]
        drawn = [path for path in drawn if path.suffix.lower() == ".png"]
    return (
        {stem: relative(path, root) for stem, path in by_stem(found, images).items()},
        {stem: relative(path, root) for stem, path in by_stem(drawn, masks).items()},
    )
