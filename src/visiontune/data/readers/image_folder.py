"""Classification with one folder per class: `CLASS/*` or `{train,val,test}/CLASS/*`, optionally with split lists."""

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from visiontune.data.images import SUFFIXES, is_image
from visiontune.data.readers.folders import SPLIT_NAMES, all_files, relative, require_folder, root_folder
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.schema import Sample, Source, TaskInfo
from visiontune.errors import UserError, some


def read(
    root: str | Path | None,
    images: str = ".",
    splits: str | None = None,
    group_pattern: str | None = None,
    task: str = "classification",
) -> Source:
    """Read images in class folders.

    Args:
        root: the data folder; sample paths are relative to it.
        images: folder under the root that contains the class (or split) folders.
        splits: folder under the root with `{train,val,test}.txt`; a line is the path or stem of an image.
        group_pattern: regular expression searched in each path; the match of its first group is the name of the
            sample's group, such as `(patient\\d+)_`.

    Raises:
        UserError: the folder does not exist or has no images, there are fewer than two classes, a class has no
            images, or a split list is wrong.
    """
    root = root_folder(root)
    base = require_folder(root / images, "data.images")
    folders, notes = _subfolders(base)
    if splits:  # the split lists may be beside the class folders
        folders = [name for name in folders if (base / name).resolve() != (root / splits).resolve()]
    class_folders: list[tuple[str | None, str, Path]] = []
    if _are_splits(folders):
        split_names = {name: SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES}
        notes += [f"folder {base / name} is left out: it is not a split" for name in folders if name not in split_names]
        for split_folder in split_names:
            names, new_notes = _subfolders(base / split_folder)
            notes += new_notes
            class_folders += [(split_names[split_folder], name, base / split_folder / name) for name in names]
    else:
        class_folders += [(None, name, base / name) for name in folders]
    class_files: dict[str, list[tuple[str | None, Path]]] = defaultdict(list)
    others: list[Path] = []
    for split, name, folder in class_folders:
        files = all_files(folder)
        class_files[name] += [(split, path) for path in files if is_image(path)]
        others += [path for path in files if not is_image(path)]
    if others:
        notes.append(
            f"{len(others)} files that are not images are left out: " + some([relative(path, root) for path in others])
        )
    classes = sorted(class_files)
    _check(base, class_files)
    samples = [
        Sample(path=relative(path, root), targets={task: label}, split=split)
        for label, name in enumerate(classes)
        for split, path in class_files[name]
    ]
    if group_pattern:
        samples = [replace(sample, group=_group(sample.path, group_pattern)) for sample in samples]
    if splits:
        samples, new_notes = apply_split_lists(samples, root, images, root / splits)
        notes += new_notes
    samples.sort(key=lambda sample: sample.path)
    return Source({task: TaskInfo("classification", classes)}, samples, notes, root)


def _are_splits(folders: list[str]) -> bool:
    """Whether folders are splits: `train` with another split, or split names only. A class may be named "train" too."""
    names = {folder.lower() for folder in folders}
    return "train" in names and (names <= set(SPLIT_NAMES) or len(names & set(SPLIT_NAMES)) > 1)


def _subfolders(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the visible folders inside, and a note on images beside them."""
    entries = sorted(folder.iterdir())
    loose = [path for path in entries if path.is_file() and is_image(path)]
    notes = [f"{len(loose)} images directly in {folder} are left out: they have no class folder"] if loose else []
    return [path.name for path in entries if path.is_dir() and not path.name.startswith(".")], notes


def _check(base: Path, class_files: dict[str, list]) -> None:
    layout = "one folder per class (cat/1.jpg, dog/2.jpg), or train/, val/ and test/ with class folders inside"
    if not any(class_files.values()):
        raise UserError(f"{base} has no images. Expected {layout}; supported are {' '.join(sorted(SUFFIXES))}.")
    for name, files in class_files.items():
        if not files:
            raise UserError(f"class {name!r} has no images in {base}. Add some, or remove its folder.")
    if len(class_files) == 1:
        raise UserError(f"{base} has a single class, {next(iter(class_files))!r}. Expected {layout}.")


def _group(path: str, pattern: str) -> str:
    try:
        match = re.search(pattern, path)
        if match and match.group(1):
            return match.group(1)
    except (re.error, IndexError) as error:
        problem = f"is not a regular expression with a group ({error})"
    else:
        problem = f"does not match {path}"
    raise UserError(f"data.group_pattern={pattern!r} {problem}. An example: data.group_pattern='(patient\\d+)_'")
