"""Folders and paths of a data set, as every reader takes them."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from visiontune.data.images import is_image
from visiontune.errors import UserError

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
PerSplit = str | Mapping[str, str]


def root_folder(root: str | Path | None) -> Path:
    """Raises UserError: not set, or no such folder."""
    if not root:
        raise UserError("data.root is not set: say where the images are, such as data.root=~/photos")
    return existing(Path(root).expanduser().absolute(), "data.root")


def existing(folder: Path, key: str) -> Path:
    """Raises UserError, with the key to write, where there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{key}: the folder {folder} does not exist. Write {key}=DIR with an existing one.")
    return folder


def per_split(value: PerSplit | None, key: str) -> dict[str | None, str]:
    """split -> name; a single name is that of no split in particular.

    Raises:
        UserError: nothing, or a split that there is not.
    """
    example = f"write {key}=NAME, or {key}='{{train: NAME, val: NAME}}'"
    if not value:
        raise UserError(f"{key} is not set: {example}")
    if not isinstance(value, Mapping):
        return {None: value}
    if unknown := [name for name in value if str(name).lower() not in SPLIT_NAMES]:
        raise UserError(f"{key}: {unknown[0]!r} is no split: {example}")
    return {SPLIT_NAMES[str(split).lower()]: name for split, name in value.items() if name}


def all_files(folder: Path, without: Iterable[Path] = ()) -> list[Path]:
    """Everything inside at any depth, in order; linked folders are followed, those in `without` are not entered."""
    closed = {path.resolve() for path in without}
    found = []
    for where, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if Path(where, name).resolve() not in closed]
        found += [Path(where, name) for name in names]
    return sorted(found)


def image_files(folder: Path, without: Iterable[Path] = ()) -> list[Path]:
    return [path for path in all_files(folder, without) if is_image(path)]


def relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def by_stem(paths: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Path inside the folder without its suffix -> file.

    Raises:
        UserError: two files with one such name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise UserError(f"{found[stem]} and {path.name}: one name, two files. Rename or remove one of them.")
        found[stem] = path
    return found
