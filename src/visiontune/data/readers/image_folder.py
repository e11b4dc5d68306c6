"""Classification with one folder per class: `CLASS/*` or `{train,val,test}/CLASS/*`, optionally with split lists."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from visiontune.data.images import SUFFIXES, is_image
from visiontune.data.readers.folders import SPLIT_NAMES, relative, require_folder, root_folder
from visiontune.data.readers.groups import find_groups
from visiontune.data.readers.split_lists import apply_split_lists
from visiontune.data.schema import Sample, Source, TaskInfo
from visiontune.data.text import normalized
from visiontune.data.walk import is_hidden, note_left_out, walk_each
from visiontune.errors import UserError, add_notes, pluralize, some

ClassFolder = tuple[str | None, str, Path]  # split, class, folder
# Words in the names of folders that are probably splits, such as `seg_train` and `test_set`.
SPLIT_WORDS = {**SPLIT_NAMES, "eval": "val", "evaluation": "val", "dev": "val"}
FILLERS = {"set", "data", "dataset", "images", "split"}


def read(
    root: str | Path | None,
    images: str = ".",
    splits: str | None = None,
    group_pattern: str | None = None,
    task: str = "classification",
    evaluation: bool = False,
) -> Source:
    """Read images in class folders.

    Args:
        root: the data folder; sample paths are relative to it.
        images: folder under the root that contains the class (or split) folders.
        splits: folder under the root with `{train,val,test}.txt`; a line is the path or stem of an image.
        group_pattern: regular expression searched in each path; the match of its first group is the name of the
            sample's group, such as `(patient\\d+)_`.
        evaluation: accept a single class, and split folders without `train`.

    Raises:
        UserError: the folder does not exist or has no images, there are fewer than two classes, a class has no
            images, two folders are the same class, folders are probably splits with other names, or a split list is
            wrong.
    """
    root = root_folder(root)
    base = require_folder(root / images, "data.images")
    class_folders, notes = _class_folders(base, root / splits if splits else None, evaluation)
    files, new_notes = walk_each([folder for _, _, folder in class_folders], base=base)
    notes += new_notes
    class_files: dict[str, list[tuple[str | None, Path]]] = defaultdict(list)
    others: list[Path] = []
    inner: list[Path] = []
    for split, name, folder in class_folders:
        class_images = [path for path in files[folder] if is_image(path)]
        class_files[name] += [(split, path) for path in class_images]
        inner += [path for path in class_images if path.parent != folder]
        others += [path for path in files[folder] if not is_image(path)]
    if others:
        notes.append(
            f"{len(others)} files that are not images are left out: " + some([relative(path, root) for path in others])
        )
    if inner:
        count = pluralize(len(inner), "image is", "images are")
        examples = some([relative(path, root) for path in inner])
        notes.append(f"{count} in folders inside class folders; the names of these folders are not used: {examples}")
    classes = sorted(class_files)
    _check(base, class_files, notes, 1 if evaluation else 2, root)
    if not evaluation:
        _refuse_splits(base, {folder: files[folder] for split, _, folder in class_folders if split is None})
    samples = [
        Sample(path=relative(path, root), targets={task: label}, split=split)
        for label, name in enumerate(classes)
        for split, path in class_files[name]
    ]
    if group_pattern:
        groups = find_groups([sample.path for sample in samples], group_pattern)
        samples = [replace(sample, group=group) for sample, group in zip(samples, groups, strict=True)]
    if splits:
        samples, new_notes = apply_split_lists(samples, root, images, root / splits)
        notes += new_notes
    samples.sort(key=lambda sample: sample.path)
    return Source({task: TaskInfo("classification", classes)}, samples, notes, root)


def _class_folders(base: Path, lists: Path | None, evaluation: bool) -> tuple[list[ClassFolder], list[str]]:
    """The folders of the classes, in each split, and notes.

    Args:
        lists: a folder that is no class, although it is beside the class folders.
    """
    folders, notes = _subfolders(base)
    if lists:
        folders = [folder for folder in folders if folder.resolve() != lists.resolve()]
    names, split_names = {folder.name.lower() for folder in folders}, set(SPLIT_NAMES)
    # A class may be called "train": it is a split if there is another split, or if all folders are splits.
    named = {SPLIT_NAMES[name] for name in names & split_names}
    are_splits = "train" in named and (names <= split_names or len(named) > 1)
    if not (are_splits or (evaluation and names <= split_names)):
        return _named(folders, None), notes
    class_folders: list[ClassFolder] = []
    split_folders: dict[str, str] = {}
    for folder in folders:
        if split := SPLIT_NAMES.get(folder.name.lower()):
            inner, new_notes = _subfolders(folder)
            class_folders += _named(inner, split)
            notes += new_notes
            if first := split_folders.get(split):
                notes.append(f"the folders {first} and {folder.name} are both {split}")
            split_folders.setdefault(split, folder.name)
        else:
            notes.append(f"folder {folder} is left out: it is not a split")
    return class_folders, notes


def _named(folders: Sequence[Path], split: str | None) -> list[ClassFolder]:
    """Folders with their split and class.

    Raises:
        UserError: the names of two folders look alike.
    """
    names: dict[str, Path] = {}
    for folder in folders:
        first = names.setdefault(normalized(folder.name), folder)
        if first != folder:
            raise UserError(
                f"{folder.parent} has two folders {folder.name!r} whose names differ only in their Unicode form: "
                f"{first.name!a} and {folder.name!a}. Put their images into one of them."
            )
    return [(split, name, folder) for name, folder in names.items()]


def _subfolders(folder: Path) -> tuple[list[Path], list[str]]:
    """The visible folders inside, and notes on images and hidden folders beside them."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}). Make it readable.") from error
    hidden = [path for path in entries if is_hidden(path.name) and path.is_dir()]
    visible = [path for path in entries if not is_hidden(path.name)]
    loose = [path for path in visible if is_image(path) and path.is_file()]
    broken = [path for path in visible if path.is_symlink() and not path.exists()]
    parents = {folder.resolve(), *folder.resolve().parents}
    loops = [path for path in visible if path.is_symlink() and path.is_dir() and path.resolve() in parents]
    reasons = (
        (loose, "image without class folder", "images without class folder"),
        (hidden, "hidden or system folder", "hidden and system folders"),
        (broken, "broken link", "broken links"),
        (loops, "link to a folder that contains it", "links to folders that contain them"),
    )
    notes = [note for paths, name, names in reasons for note in note_left_out(folder, paths, name, names)]
    return [path for path in visible if path.is_dir() and path not in loops], notes


def _refuse_splits(base: Path, class_files: Mapping[Path, Sequence[Path]]) -> None:
    """Refuse folders that are probably splits, such as `seg_train` and `seg_test`, instead of reading them as classes.

    They name two splits or more, and no other subject (as `train_station` does) or hold no image directly.
    """
    splits: dict[str, str] = {}
    for folder, files in class_files.items():
        words = set(re.findall("[a-z]+", folder.name.lower()))
        named = sorted(words & SPLIT_WORDS.keys())
        is_nested = not any(is_image(path) and path.parent == folder for path in files)
        if named and (words <= {*SPLIT_WORDS, *FILLERS} or is_nested):
            splits[folder.name] = SPLIT_WORDS[named[0]]
    if len(set(splits.values())) > 1:
        raise UserError(
            f"{base}: the folders {some(sorted(splits))} are read as classes, and have names of splits. Name them "
            "train, val and test, with class folders inside (train/cat/1.jpg), or give the classes other names."
        )


def _check(base: Path, class_files: dict[str, list], notes: Sequence[str], least: int, root: Path) -> None:
    layout = "one folder per class (cat/1.jpg, dog/2.jpg), or train/, val/ and test/ with class folders inside"
    if not any(class_files.values()):
        message = f"{base} has no images. Expected {layout}; supported are {' '.join(sorted(SUFFIXES))}."
        raise UserError(add_notes(message, notes))
    for name, files in class_files.items():
        if not files:
            message = f"class {name!r} has no images in {base}. Add some, or remove its folder."
            raise UserError(add_notes(message, notes))
    if len(class_files) < least:
        folder, folders = base, _subfolders(base)[0]
        while len(folders) == 1:
            folder, folders = folders[0], _subfolders(folders[0])[0]
        names = some([path.name for path in folders])
        hint = f" Are {names} the classes or splits? Write data.images={relative(folder, root)}" if folders else ""
        raise UserError(f"{base} has a single class, {next(iter(class_files))!r}. Expected {layout}.{hint}")
