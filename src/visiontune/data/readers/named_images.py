"""Find the images that a table or an annotation file names, although other machines and tools wrote their paths."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from visiontune.data.images import SUFFIXES, is_image
from visiontune.data.readers.folders import relative
from visiontune.data.text import match_key, normalized
from visiontune.data.walk import walk
from visiontune.errors import UserError, pluralize, some

FOREIGN_ROOT = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+://[^/]*/|[A-Za-z]:/|/|~/)")  # a scheme and host, a drive, a root


def path_ends(name: str) -> list[str]:
    r"""The ends of a path, the longest first: `C:\data\cats\1.jpg` ends with data/cats/1.jpg, cats/1.jpg, 1.jpg."""
    plain = name.strip().replace("\\", "/")
    parts = [part for part in FOREIGN_ROOT.sub("", plain, count=1).split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[i:]) for i in range(len(parts))]


def is_foreign(name: str) -> bool:
    """Whether a path is absolute, on this machine or another one, or an address."""
    return FOREIGN_ROOT.match(name.strip().replace("\\", "/")) is not None


class NamedImages:
    """Finds images by their names in a file.

    A name is a path under the first folder. If there is no such file, it may have another Unicode form or letter case,
    or begin with folders, a drive or an address of another machine: its longest end that is an image counts. A name
    without extension is the only image of that stem in the first folder. An absolute path to a file outside the folders
    is the last choice.

    Args:
        folders: in the order of preference.
        root: the data folder; images outside of it are noted.
        file: the file that has the names, for messages.
    """

    def __init__(self, folders: Sequence[Path], root: Path, file: str) -> None:
        self.folders, self.root, self.file = list(dict.fromkeys(folders)), root, file
        self._prefixes = tuple(f"{folder}{os.sep}" for folder in self.folders)
        self._elsewhere: list[str] = []
        self._stems: list[str] = []
        self._outside: list[str] = []

    def find(self, name: str, location: str) -> Path | None:
        """The image, or None.

        Args:
            location: of the name, for messages.

        Raises:
            UserError: several images have a name without extension.
        """
        plain = name.strip().replace("\\", "/")
        path = self._find_path(plain) or self._find_stem(plain, location)
        if path is None and is_foreign(plain) and os.path.isfile(expanded := os.path.expanduser(plain)):
            path = Path(expanded)
        if path is not None and relative(path, self.root).startswith("../"):
            self._outside.append(str(path))
        return path

    def locate(self, name: str) -> str:
        """The end of a message on missing images: where one of this name is; empty if there is none."""
        indices = [index for _, index in self._indices]
        for end in path_ends(match_key(name)):
            if path := next((index[key][0] for index in indices for key in index if key.endswith(f"/{end}")), None):
                folder = relative(path.parents[end.count("/")], self.root)
                return f" There is {relative(path, self.root)}, which data.images={folder} would find."
        return ""

    def unlisted(self, paths: Collection[str]) -> list[str]:
        """A note on images beside those with these paths under the root, which the file does not name."""
        known = {match_key(path) for path in paths}
        others: list[str] = []
        for folder in {os.path.dirname(path) for path in paths if not path.startswith("../")}:
            with suppress(OSError):  # a folder may let its files be read, but not be listed
                files = [os.path.join(folder, name) for name in os.listdir(self.root / folder)]
                others += [path for path in files if match_key(path) not in known and is_image(Path(path))]
        count = pluralize(len(others), "image that is", "images that are")
        verb = "is" if len(others) == 1 else "are"
        return [f"{count} not in {self.file} {verb} left out: {some(sorted(others))}"] if others else []

    def notes(self) -> list[str]:
        """Messages about images that are not where the file says."""
        lists = (
            (self._elsewhere, "image has", "images have", f" another path than in {self.file}"),
            (self._stems, f"name in {self.file} has", f"names in {self.file} have", " no extension"),
            (self._outside, f"image of {self.file} is", f"images of {self.file} are", " outside data.root"),
        )
        return [
            f"{pluralize(len(names), singular, plural)}{end}: {some(names)}"
            for names, singular, plural, end in lists
            if names
        ]

    def _find_path(self, name: str) -> Path | None:
        written = os.path.join(self.folders[0], name)
        if os.path.isfile(written) and (not is_foreign(name) or written.startswith(self._prefixes)):
            return Path(written)
        for end in dict.fromkeys([*path_ends(name), *path_ends(unquote(name.split("?")[0]))]):
            for folder, index in self._indices:
                if path := _choose(index.get(match_key(end), []), folder / end):
                    if normalized(written) != normalized(str(path)):
                        self._elsewhere.append(f"{name} is {relative(path, self.root)}")
                    return path
        return None

    def _find_stem(self, name: str, location: str) -> Path | None:
        if PurePosixPath(name).suffix.lower() in SUFFIXES:
            return None
        paths = self._by_stem.get(match_key(os.path.normpath(name)), [])
        if len(paths) > 1:
            names = some([relative(path, self.root) for path in paths])
            raise UserError(f"{location}: {name!r}: {len(paths)} images have this name: {names}. Write the path.")
        if paths:
            self._stems.append(f"{name} is {relative(paths[0], self.root)}")
        return paths[0] if paths else None

    @cached_property
    def _indices(self) -> list[tuple[Path, dict[str, list[Path]]]]:
        """Each folder, and its images by `match_key` of its path."""
        indices = []
        for folder in self.folders:
            index: dict[str, list[Path]] = defaultdict(list)
            for path in walk(folder).images:
                index[match_key(relative(path, folder))].append(path)
            indices.append((folder, index))
        return indices

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        """The images of the first folder, by path without extension and by stem."""
        images: dict[str, list[Path]] = defaultdict(list)
        for name, paths in self._indices[0][1].items():
            for stem in {name.rpartition(".")[0], PurePosixPath(name).stem}:
                images[stem] += paths
        return images


def _choose(paths: list[Path], path: Path) -> Path | None:
    """The path itself if it is among those that differ in letter case or Unicode form, else the only one of them."""
    if path in paths:
        return path
    same_case = [other for other in paths if normalized(str(other)) == normalized(str(path))]
    return same_case[0] if len(same_case) == 1 else paths[0] if len(paths) == 1 else None
