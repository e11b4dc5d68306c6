"""Pairs of an image and its mask, which have the same name in one folder or in two."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from visiontune.data.images import is_image
from visiontune.data.readers.folders import PerSplit, by_stem, per_split, relative, require_folder
from visiontune.data.schema import Sample
from visiontune.data.text import normalized
from visiontune.data.walk import walk, walk_each
from visiontune.errors import UserError, listed, pluralize, some


@dataclass
class MaskPairs:
    """Images with their masks; all paths are relative to the data folder.

    Attributes:
        folders: folders of the images.
        masks: image -> mask.
        splits: image -> split, None if all splits share a folder.
        unmasked: images without a mask, sorted.
        notes: messages about what is left out.
    """

    folders: list[str]
    masks: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str | None] = field(default_factory=dict)
    unmasked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def samples(self) -> list[Sample]:
        """The images that have a mask, without targets."""
        return [Sample(path, {}, self.splits[path]) for path in sorted(self.masks)]


def pair_masks(root: Path, images: PerSplit, masks: PerSplit, suffix: str = "") -> MaskPairs:
    """Find the mask of each image: its relative path and stem are those of the image, followed by `suffix`.

    If masks are in the folder of the images, they are the files with the suffix, or without a suffix the PNG files.

    Raises:
        UserError: a folder is missing, no image has a mask, a mask has no image, or an image is in two splits.
    """
    folders = _folders(per_split(images, "data.images"), per_split(masks, "data.masks"))
    pairs = MaskPairs([folder for folder, _ in folders.values()])
    bases = [require_folder(root / folder, "data.images") for folder in pairs.folders]
    mask_bases = [require_folder(root / folder, "data.masks") for _, folder in folders.values()]
    image_files, pairs.notes = walk_each(bases, root, without=set(mask_bases) - set(bases))
    walks = {base: walk(base, without={*bases} - {base}, aliases=True) for base in dict.fromkeys(mask_bases)}
    all_masks: set[str] = set()
    for split, base, mask_base in zip(folders, bases, mask_bases, strict=True):
        images_by_stem, masks_by_stem = _by_stem(
            root, base, image_files[base], mask_base, walks[mask_base].images, suffix
        )
        end = normalized(suffix)
        stems = {stem.removesuffix(end): path for stem, path in masks_by_stem.items() if stem.endswith(end)}
        matches = {path: stems[stem] for stem, path in images_by_stem.items() if stem in stems}
        if not matches:
            _refuse(base, mask_base, [*images_by_stem], [*masks_by_stem], suffix)
        if duplicates := sorted(set(matches) & set(pairs.masks)):
            raise UserError(
                f"{duplicates[0]} is in both {pairs.splits[duplicates[0]]} and {split}. A sample has one split."
            )
        pairs.masks |= matches
        pairs.splits |= dict.fromkeys(matches, split)
        pairs.unmasked += [path for stem, path in images_by_stem.items() if stem not in stems]
        all_masks |= set(masks_by_stem.values())
    if unmatched := sorted(all_masks - set(pairs.masks.values())):
        raise UserError(f"{len(unmatched)} masks have no image of the same name; add or remove:{listed(unmatched)}")
    pairs.unmasked.sort()
    if pairs.unmasked:
        count = pluralize(len(pairs.unmasked), "image without a mask is", "images without a mask are")
        pairs.notes.append(f"{count} left out: {some(pairs.unmasked)}")
    pairs.notes += [note for result in walks.values() for note in result.notes]
    return pairs


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


def _by_stem(
    root: Path, base: Path, files: Sequence[Path], mask_base: Path, masks: Sequence[Path], suffix: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Images and masks, each as a mapping stem -> path under the root."""
    images = [path for path in files if is_image(path)]
    if base == mask_base:
        images = [path for path in images if not _is_mask(path, suffix)]
        masks = [path for path in masks if _is_mask(path, suffix)]
    return (
        {stem: relative(path, root) for stem, path in by_stem(images, base).items()},
        {stem: relative(path, root) for stem, path in by_stem(masks, mask_base).items()},
    )


def _is_mask(path: Path, suffix: str) -> bool:
    return normalized(path.stem).endswith(normalized(suffix)) if suffix else path.suffix.lower() == ".png"


def _refuse(base: Path, mask_base: Path, images: Sequence[str], masks: Sequence[str], suffix: str) -> None:
    """Raise the error that no image has a mask; it proposes a suffix if all masks have it."""
    name, what = (images[0], "no mask for any image") if images else ("NAME", "masks, but no images")
    message = f"{mask_base} has {what} in {base}. The mask of {name}.jpg must be called {name}{suffix}.png"
    if base == mask_base and not suffix:
        message += ". If images are PNG, too, write the end of the names of masks, such as data.suffix=_mask"
    ends = [{mask.removeprefix(name) for mask in masks if mask.startswith(name)} for name in images[:3]]
    if ends and (common := set.intersection(*ends) - {suffix}):
        message += f". Do the names of masks end with {min(common, key=len)}? Write data.suffix={min(common, key=len)}"
    raise UserError(message)
