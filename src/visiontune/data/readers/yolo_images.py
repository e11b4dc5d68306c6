"""The images of each split of a YOLO data set, and their label files."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from visiontune.data.images import is_image
from visiontune.data.readers.folders import relative
from visiontune.data.readers.named_images import NamedImages, is_foreign, path_ends
from visiontune.data.schema import SPLITS
from visiontune.data.text import match_key, read_text
from visiontune.data.walk import is_hidden, walk_each
from visiontune.errors import UserError, add_notes, listed, pluralize, some

SPLIT_KEYS = {"train": ["train"], "val": ["val", "valid", "validation"], "test": ["test"]}
NO_LABELS = {"classes.txt"}  # labelImg writes the class names beside the labels


def follow(path: Path, depth: int = 8) -> Path:
    """Resolve symbolic links that are stored as text files with the path of their target.

    Git and some archives write such files on systems without symbolic links.

    Args:
        depth: how many links may point to each other.
    """
    if depth == 0 or os.path.exists(path):
        return path
    for link in reversed(path.parents):
        if os.path.isfile(link) and link.stat().st_size < 1000:
            target = link.parent / link.read_text(errors="replace").strip() / path.relative_to(link)
            return follow(target, depth - 1)
    return path


class SplitImages:
    """Finds the images of the splits. Those under the root are preferred, whatever machine wrote the YAML file."""

    def __init__(self, config: Mapping[str, Any], file: Path, root: Path) -> None:
        self.config, self.file, self.root = config, file, root
        self.notes: list[str] = []
        folder = _text(config.get("path")) or "."
        written = [base / os.path.expanduser(folder) for base in (file.parent, root)]
        self.bases = [base for base in dict.fromkeys([*written, file.parent, root]) if os.path.isdir(base)]
        self.bases.sort(key=lambda base: not self._is_inside(base))
        if not any(map(os.path.isdir, written)):
            self.notes.append(f"path {folder} of {file} does not exist: {file.parent} is used instead")
        elif not any(os.path.isdir(base) and self._is_inside(base) for base in written):
            self.notes.append(f"path {folder} of {file} is outside {root}: images under {root} are used first")

    def read(self) -> Iterator[tuple[str, Path]]:
        """The split and the path of each image; paths are as in the YAML file, links in text files not resolved.

        Of several links to an image, one counts, as in `walk_each`.

        Raises:
            UserError: a folder, list or image does not exist, a folder or list has no image, or links in two splits
                lead to the same image.
        """
        entries = [(split, *entry) for split in SPLITS for entry in self._entries(split)]
        targets = [follow(path) for _, _, path in entries]
        folders = {target: split for (split, *_), target in zip(entries, targets, strict=True) if target.is_dir()}
        files, notes = walk_each(folders, self.root)
        self.notes += notes
        for (split, key, path), target in zip(entries, targets, strict=True):
            if target in files:
                images = [path / file.relative_to(target) for file in files[target] if is_image(file)]
            else:
                images = self._read_list(target)
            if not images:
                raise UserError(add_notes(f"{self.file}: {key}: {path} has no images", notes))
            yield from ((split, image) for image in images)

    def _entries(self, split: str) -> list[tuple[str, Path]]:
        """The key of a split, and the path of each folder or list."""
        key = next((key for key in SPLIT_KEYS[split] if self.config.get(key)), split)
        value = self.config.get(key)
        entries = value if isinstance(value, list) else [value]
        if any(isinstance(entry, list | dict) for entry in entries):
            raise UserError(f"{self.file}: {key}: expected a folder or a list of folders, such as {key}: images/{key}")
        return [(key, self._find(entry, key)) for entry in filter(None, map(_text, entries))]

    def _find(self, entry: str, key: str) -> Path:
        """The folder or list of an entry: the first one under the root that exists, else the first that exists."""
        # Roboflow writes ../train/images beside train/images.
        names = path_ends(entry) if is_foreign(entry) else [entry, entry.removeprefix("../")]
        candidates = [base / name for name in names for base in self.bases]
        candidates += [Path(os.path.expanduser(entry))] if is_foreign(entry) else []
        existing = [candidate for candidate in candidates if os.path.exists(follow(candidate))]
        if not existing:
            missing = candidates[-1 if is_foreign(entry) else 0]
            raise UserError(f"{self.file}: {key}: {missing} does not exist. Write a folder of images or a .txt of them")
        path = min(existing, key=lambda candidate: not self._is_inside(candidate))
        if not self._is_inside(path):
            self.notes.append(f"{key}: {os.path.normpath(path)} is outside {self.root}")
        elif is_foreign(entry) and path != Path(entry):
            self.notes.append(f"{key}: {entry} of {self.file} is read from {path}")
        return path

    def _read_list(self, file: Path) -> list[Path]:
        """The images in a text file; their paths are relative to the data set or, with ./, to the text file."""
        text, note = read_text(file)
        self.notes += [note] if note else []
        lookup = NamedImages([*self.bases, file.parent], self.root, str(file))
        images, missing = [], []
        for number, line in enumerate(text.splitlines(), start=1):
            if name := line.strip().replace("\\", "/"):
                folders = [file.parent, *self.bases] if name.startswith("./") else [*self.bases, file.parent]
                candidates = [] if is_foreign(name) else [folder / name for folder in folders]
                location = f"{file}:{number}"
                path = next((path for path in candidates if os.path.isfile(follow(path))), None)
                path = path or lookup.find(name, location)
                images += [path] if path else []
                missing += [] if path else [f"{location}: {name}"]
        if missing:
            raise UserError(f"{len(missing)} listed images do not exist:{listed(missing)}")
        self.notes += lookup.notes()
        return images

    def _is_inside(self, path: Path) -> bool:
        return Path(os.path.normpath(path)).is_relative_to(os.path.normpath(self.root))


class LabelFiles:
    """Finds the label file of an image: in `labels` in place of the last folder `images`, else beside the image.

    The letter case of folders and suffixes, and the Unicode form of names, may differ.
    """

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, Path]] = {}

    def find(self, image: Path) -> Path:
        """The label file; where it should be if there is none."""
        parts = list(image.parts)
        places = [i for i, part in enumerate(parts[:-1]) if part.lower() == "images"]
        beside = image.with_suffix(".txt")
        if not places:
            return self._in_folder(beside) or beside
        folders = [Path(*parts[: places[-1]]) / name for name in ("labels", "Labels", "LABELS")]
        rest = Path(*parts[places[-1] + 1 :]).with_suffix(".txt")
        expected = follow(folders[0] / rest)
        for folder in folders:
            if path := self._in_folder(follow(folder / rest)):
                return path
        return self._in_folder(beside) or expected

    def unmatched(self, root: Path, labels: Mapping[str, Path]) -> list[str]:
        """A note on label files without an image; not an error, since published data sets have some.

        Args:
            labels: image -> its label file.
        """
        expected = {label.resolve() for label in labels.values()}
        image_folders: dict[Path, set[Path]] = {}
        for path, label in labels.items():
            image_folders.setdefault(label.parent, set()).add((root / path).parent)
        unmatched: list[str] = []
        for label_folder, folders in image_folders.items():
            files = [
                path
                for path in self._files(label_folder).values()
                if not is_hidden(path.name) and path.name not in NO_LABELS and path.resolve() not in expected
            ]
            # A list may contain only some of the images in a folder.
            stems = {path.stem for folder in folders for path in folder.iterdir() if is_image(path)} if files else set()
            unmatched += [relative(path, root) for path in files if path.stem not in stems]
        count = pluralize(len(unmatched), "label file has", "label files have")
        return [f"{count} no image: {some(sorted(unmatched))}"] if unmatched else []

    def _in_folder(self, path: Path) -> Path | None:
        """The file itself, or one that differs from it in letter case or Unicode form."""
        return path if os.path.isfile(path) else self._files(path.parent).get(match_key(path.name))

    def _files(self, folder: Path) -> dict[str, Path]:
        if folder not in self._names:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else []
            self._names[folder] = {
                match_key(entry.name): Path(entry.path) for entry in entries if entry.name.lower().endswith(".txt")
            }
        return self._names[folder]


def shared_labels(root: Path, labels: Mapping[str, Path]) -> list[str]:
    """A note on label files of several images, such as `1.jpg` and `1.png`; `labels` is image -> its label file."""
    images: dict[Path, list[str]] = {}
    for path, label in labels.items():
        images.setdefault(label, []).append(path)
    shared = [
        f"{relative(label, root)} of {' and '.join(paths)}"
        for label, paths in images.items()
        if len(paths) > 1 and label.is_file()
    ]
    count = pluralize(len(shared), "label file is", "label files are")
    return [f"{count} used for several images: {some(shared)}"] if shared else []


def _text(value: Any) -> str:
    """An entry of the YAML file as a path with forward slashes; empty if it is missing."""
    missing = value in (None, "null", "~") or isinstance(value, list | dict)
    return "" if missing else str(value).strip().replace("\\", "/")
