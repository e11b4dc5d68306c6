"""Splits from lists `{train,val,test}.txt`, for data of any format."""

import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NoReturn

from visiontune.data.readers.folders import SPLIT_NAMES, relative
from visiontune.data.schema import SPLITS, Sample
from visiontune.data.text import normalized, read_text
from visiontune.data.walk import walk
from visiontune.errors import UserError, listed, pluralize, some

NUMBERS = re.compile(r"(\s+-?\d+)+$")


def apply_split_lists(
    samples: list[Sample], root: Path, images: str | Collection[str], folder: Path, label: str = "annotation"
) -> tuple[list[Sample], list[str]]:
    """Assign samples to the split of the list that contains them; leave out samples in no list, with a note.

    A line is a sample's path under the root or under `images`, with or without suffix, or its stem. Numbers after it,
    which some data sets have, are ignored. `trainval.txt` is read as train if there is no train.txt and no val.txt.

    Args:
        label: what an image lacks that exists but is not a sample, such as `mask`.

    Raises:
        UserError: there are no lists, a line matches no sample or several, or a sample is in two lists.
    """
    folders = [images] if isinstance(images, str) else list(images)
    index = _names([sample.path for sample in samples], folders)
    notes: list[str] = []
    assignments: dict[str, tuple[str, str]] = {}
    repeated: list[str] = []
    unknown: dict[str, str] = {}  # location -> name
    for split, file in _files(folder).items():
        text, note = read_text(file)
        notes += [note] if note else []
        for number, line in enumerate(text.split("\n"), start=1):
            name = _name(line, root)
            if name not in index:
                name = NUMBERS.sub("", name)
            if not name:
                continue
            location = f"{file}:{number}"
            paths = index.get(name, set())
            if len(paths) > 1:
                raise UserError(
                    f"{location}: {name!r}: {len(paths)} images have this name. Write its path under {root}."
                )
            if not paths:
                unknown[location] = name
                continue
            (path,) = paths
            repeated += [f"{location}: {name}"] if path in assignments else []
            if assignments.setdefault(path, (split, location))[0] != split:
                raise UserError(f"{location}: {path} is already in {assignments[path][1]}. A sample has one split.")
    if unknown:
        _refuse(unknown, root, folders, label)
    assigned = [replace(sample, split=assignments[sample.path][0]) for sample in samples if sample.path in assignments]
    if repeated:
        count = pluralize(len(repeated), "line of the lists names", "lines of the lists name")
        notes.append(f"{count} an image again, which is used once: {some(repeated)}")
    if missing := len(samples) - len(assigned):
        notes.append(f"{pluralize(missing, 'image is', 'images are')} in no list in {folder}, and left out")
    return assigned, notes


def _files(folder: Path) -> dict[str, Path]:
    """split -> its list."""
    files: dict[str, Path] = {}
    paths = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    for path in paths:
        split = SPLIT_NAMES.get(path.stem.lower())
        if split and path.is_file():
            if split in files:
                raise UserError(
                    f"data.splits: {files[split]} and {path.name} are both lists of {split}. Remove one of them."
                )
            files[split] = path
    if not {"train", "val"} & set(files) and (folder / "trainval.txt").is_file():
        files["train"] = folder / "trainval.txt"
    if "train" not in files:
        raise UserError(
            f"data.splits: {folder} has no train.txt. Expected train.txt, val.txt and test.txt there; write "
            "data.splits=null to use data.split_ratio instead"
        )
    return {split: files[split] for split in SPLITS if split in files}


def _refuse(unknown: dict[str, str], root: Path, folders: list[str], label: str) -> NoReturn:
    """Raise the error that lines name no sample.

    Args:
        unknown: location -> name.
    """
    images = _names([relative(path, root) for path in walk(root).images], folders)
    if unlabelled := [f"{location}: {name!r}" for location, name in unknown.items() if name in images]:
        raise UserError(
            f"{len(unlabelled)} images in the lists have no {label}; add it, or remove these lines:{listed(unlabelled)}"
        )
    location, name = next(iter(unknown.items()))
    more = f" (and {len(unknown) - 1} more lines)" if len(unknown) > 1 else ""
    raise UserError(
        f"{location}: {name!r}: no such image under {root / folders[0]}{more}. Write its path under {root}."
    )


def _name(line: str, root: Path) -> str:
    """The name of an image in a line, as in the index: with slashes, normalized, and relative to the root."""
    name = normalized(line.strip().replace("\\", "/")).removeprefix("./")
    prefix = f"{normalized(root.as_posix())}/"
    return name.removeprefix(prefix) if name.startswith(prefix) else name


def _names(paths: Collection[str], folders: list[str]) -> dict[str, set[str]]:
    """Normalized name that a line may contain -> paths of the matching images."""
    names: dict[str, set[str]] = defaultdict(set)
    # A stem matches an image only if it is not the full name of another one.
    stems: dict[str, set[str]] = defaultdict(set)
    for text in paths:
        path = PurePosixPath(normalized(text))
        stems[path.stem].add(text)
        for full_name in {
            path,
            *(path.relative_to(folder) for folder in map(normalized, folders) if path.is_relative_to(folder)),
        }:
            names[str(full_name)].add(text)
            names[str(full_name.with_suffix(""))].add(text)
    return {**stems, **names}
