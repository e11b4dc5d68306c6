"""Splits from lists `{train,val,test}.txt`, for data of any format."""

import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path, PurePosixPath

from visiontune.data.schema import SPLITS, Sample
from visiontune.errors import UserError

NUMBERS = re.compile(r"(\s+-?\d+)+$")


def apply_split_lists(
    samples: list[Sample], root: Path, images: str | Collection[str], folder: Path
) -> tuple[list[Sample], list[str]]:
    """Assign samples to the split of the list that contains them; leave out samples in no list, with a note.

    A line is a sample's path under the root or under `images`, with or without suffix, or its stem. Numbers after it,
    which some data sets have, are ignored. `trainval.txt` is read as train if there is no train.txt and no val.txt.

    Raises:
        UserError: there are no lists, a line matches no sample or several, or a sample is in two lists.
    """
    files = {split: folder / f"{split}.txt" for split in SPLITS if (folder / f"{split}.txt").is_file()}
    if not {"train", "val"} & set(files) and (folder / "trainval.txt").is_file():
        files["train"] = folder / "trainval.txt"
    if "train" not in files:
        raise UserError(f"data.splits: {folder} has no train.txt. Expected train.txt, val.txt and test.txt there.")
    folders = [images] if isinstance(images, str) else list(images)
    index = _names(samples, folders)
    assignments: dict[str, tuple[str, str]] = {}
    for split, file in files.items():
        for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
            name = line.strip().replace("\\", "/").removeprefix("./")
            if name not in index:
                name = NUMBERS.sub("", name)
            if not name:
                continue
            location = f"{file}:{number}"
            paths = index.get(name, set())
            if len(paths) != 1:
                problem = f"{len(paths)} images have this name" if paths else f"no such image under {root / folders[0]}"
                raise UserError(f"{location}: {name!r}: {problem}. Write its path under {root}.")
            (path,) = paths
            if assignments.setdefault(path, (split, location))[0] != split:
                raise UserError(f"{location}: {path} is already in {assignments[path][1]}. A sample has one split.")
    assigned = [replace(sample, split=assignments[sample.path][0]) for sample in samples if sample.path in assignments]
    count = len(samples) - len(assigned)
    return assigned, [f"{count} images that are in no list in {folder} are left out"] if count else []


def _names(samples: list[Sample], folders: list[str]) -> dict[str, set[str]]:
    """Name that a line may contain -> paths of the matching samples."""
    names: dict[str, set[str]] = defaultdict(set)
    # A stem matches an image only if it is not the full name of another one.
    stems: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        path = PurePosixPath(sample.path)
        stems[path.stem].add(sample.path)
        for full_name in {path, *(path.relative_to(folder) for folder in folders if path.is_relative_to(folder))}:
            names[str(full_name)].add(sample.path)
            names[str(full_name.with_suffix(""))].add(sample.path)
    return {**stems, **names}
