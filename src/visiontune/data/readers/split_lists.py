"""The owner's splits as `{train,val,test}.txt`, whatever the format of the data."""

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
    """Give each sample the split whose list names it; those that no list names are left out, and noted.

    A line is a sample's path under the root, its path under `images`, either without its suffix, or its stem; numbers
    after it, as some owners write them, do not matter. `trainval.txt` is train where neither train.txt nor
    val.txt is.

    Raises:
        UserError: no lists, a line that names no sample or several, a sample in two lists.
    """
    files = {split: folder / f"{split}.txt" for split in SPLITS if (folder / f"{split}.txt").is_file()}
    if not {"train", "val"} & set(files) and (folder / "trainval.txt").is_file():
        files["train"] = folder / "trainval.txt"
    if "train" not in files:
        raise UserError(f"data.splits: {folder} has no train.txt. Expected train.txt, val.txt and test.txt there.")
    folders = [images] if isinstance(images, str) else list(images)
    index = _names(samples, folders)
    chosen: dict[str, tuple[str, str]] = {}
    for split, file in files.items():
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
            name = line.strip().replace("\\", "/").removeprefix("./")
            if name not in index:
                name = NUMBERS.sub("", name)
            if not name:
                continue
            where = f"{file}:{number}"
            paths = index.get(name, set())
            if len(paths) != 1:
                what = f"{len(paths)} images are called so" if paths else f"no such image under {root / folders[0]}"
                raise UserError(f"{where}: {name!r}: {what}. Write its path under {root}.")
            (path,) = paths
            if chosen.setdefault(path, (split, where))[0] != split:
                raise UserError(f"{where}: {path} is already in {chosen[path][1]}. A sample has one split.")
    kept = [replace(sample, split=chosen[sample.path][0]) for sample in samples if sample.path in chosen]
    rest = len(samples) - len(kept)
    return kept, [f"{rest} images that no list in {folder} names are left out"] if rest else []


def _names(samples: list[Sample], folders: list[str]) -> dict[str, set[str]]:
    """Every name a line may use -> the paths it could mean."""
    names: dict[str, set[str]] = defaultdict(set)
    # A stem means an image only where nothing is called so in full.
    stems: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        path = PurePosixPath(sample.path)
        stems[path.stem].add(sample.path)
        for whole in {path, *(path.relative_to(folder) for folder in folders if path.is_relative_to(folder))}:
            names[str(whole)].add(sample.path)
            names[str(whole.with_suffix(""))].add(sample.path)
    return {**stems, **names}
