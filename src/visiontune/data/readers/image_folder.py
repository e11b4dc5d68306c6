"""Classification images in folders: `CLASS/*` or `{train,val,test}/CLASS/*`, with or without lists of splits."""

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from visiontune.data.images import SUFFIXES, is_image
from visiontune.data.readers.folders import SPLIT_NAMES, all_files, existing, relative, root_folder
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
    """Read a folder of classes.

    Args:
        root: the data folder; sample paths are relative to it.
        images: where under the root the class (or split) folders are.
        splits: folder under the root with `{train,val,test}.txt`; a line names an image by its path or stem.
        group_pattern: regular expression searched in each path; what its first group matches names the sample's
            group, such as `(patient\\d+)_`.

    Raises:
        UserError: no such folder, no images, fewer than two classes, a class without images, or a split list
            that does not fit.
    """
    root = root_folder(root)
    base = existing(root / images, "data.images")
    tops, notes = _subfolders(base)
    if splits:  # the lists may lie among the classes
        tops = [top for top in tops if (base / top).resolve() != (root / splits).resolve()]
    class_folders: list[tuple[str | None, str, Path]] = []
    if _are_splits(tops):
        ours = {top: SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
        notes += [f"folder {base / top} is left out: it is no split" for top in tops if top not in ours]
        for top, said in ours.items():
            names, more = _subfolders(base / top)
            notes += more
            class_folders += [(said, name, base / top / name) for name in names]
    else:
        class_folders += [(None, name, base / name) for name in tops]
    found: dict[str, list[tuple[str | None, Path]]] = defaultdict(list)
    strangers: list[Path] = []
    for split, name, folder in class_folders:
        inside = all_files(folder)
        found[name] += [(split, path) for path in inside if is_image(path)]
        strangers += [path for path in inside if not is_image(path)]
    if strangers:
        notes.append(
            f"{len(strangers)} files that are not images are left out: "
            + some([relative(path, root) for path in strangers])
        )
    classes = sorted(found)
    _check(base, found)
    samples = [
        Sample(path=relative(path, root), targets={task: label}, split=said)
        for label, name in enumerate(classes)
        for said, path in found[name]
    ]
    if group_pattern:
        samples = [replace(sample, group=_group(sample.path, group_pattern)) for sample in samples]
    if splits:
        samples, more = apply_split_lists(samples, root, images, root / splits)
        notes += more
    samples.sort(key=lambda sample: sample.path)
    return Source({task: TaskInfo("classification", classes)}, samples, notes, root)


def _are_splits(folders: list[str]) -> bool:
    """`train` with `val` or `test`, or nothing but split names; a class may be called "train" (car, bus, train)."""
    lower = {folder.lower() for folder in folders}
    return "train" in lower and (lower <= set(SPLIT_NAMES) or len(lower & set(SPLIT_NAMES)) > 1)


def _subfolders(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the visible folders inside, and a note on the files that lie beside them."""
    entries = sorted(folder.iterdir())
    loose = [path for path in entries if path.is_file() and is_image(path)]
    notes = [f"{len(loose)} images directly in {folder} are left out: they have no class folder"] if loose else []
    return [path.name for path in entries if path.is_dir() and not path.name.startswith(".")], notes


def _check(base: Path, found: dict[str, list]) -> None:
    layout = "one folder a class (cat/1.jpg, dog/2.jpg), or train/, val/ and test/ with such folders inside"
    if not any(found.values()):
        raise UserError(f"{base} holds no images. Expected {layout}; read are {' '.join(sorted(SUFFIXES))}.")
    for name, pictures in found.items():
        if not pictures:
            raise UserError(f"class {name!r} has no images in {base}. Add some, or remove its folder.")
    if len(found) == 1:
        raise UserError(f"{base} holds a single class, {next(iter(found))!r}. Expected {layout}.")


def _group(path: str, pattern: str) -> str:
    try:
        match = re.search(pattern, path)
        if match and match.group(1):
            return match.group(1)
    except (re.error, IndexError) as error:
        problem = f"is no regular expression with a group ({error})"
    else:
        problem = f"does not match {path}"
    raise UserError(f"data.group_pattern={pattern!r} {problem}. An example: data.group_pattern='(patient\\d+)_'")
