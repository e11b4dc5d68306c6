"""Find the images that an annotation file names, although other machines and tools wrote their paths."""

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from visiontune.data.text import match_key, normalized
from visiontune.data.walk import walk
from visiontune.errors import pluralize, some

FOREIGN_ROOT = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+://[^/]*/|[A-Za-z]:/|/|~/)")  # a scheme and host, a drive, a root


def path_ends(name: str) -> list[str]:
    r"""The ends of a path, the longest first: `C:\data\cats\1.jpg` ends with data/cats/1.jpg, cats/1.jpg, 1.jpg."""
    plain = name.strip().replace("\\", "/")
    parts = [part for part in FOREIGN_ROOT.sub("", plain, count=1).split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[i:]) for i in range(len(parts))]


def is_foreign(name: str) -> bool:
    """Whether a path is absolute, on this machine or another one, or an address."""
    return FOREIGN_ROOT.match(name.strip().replace("\\", "/")) is not None


class ListedImages:
    """Finds images by their names in an annotation file.

    A name is a path under the first folder. If there is no such file, it may have another Unicode form or letter case,
    or begin with folders, a drive or an address of another machine: its longest end that is an image counts. An
    absolute path to a file outside the folders is the last choice.

    Args:
        folders: in the order of preference.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(dict.fromkeys(folders))
        self._elsewhere: list[str] = []
        self._outside: list[str] = []

    def find(self, name: str) -> Path | None:
        """The image, or None."""
        plain = name.strip().replace("\\", "/")
        foreign = is_foreign(plain)
        if not foreign and os.path.isfile(self.folders[0] / plain):
            return self.folders[0] / plain
        for end in dict.fromkeys([*path_ends(plain), *path_ends(unquote(plain.split("?")[0]))]):
            for folder, index in self._indices:
                if path := _choose(index.get(match_key(end), []), folder / end):
                    if normalized(str(folder / plain)) != normalized(str(path)):
                        self._elsewhere.append(f"{name} is {path}")
                    return path
        if foreign and os.path.isfile(path := Path(os.path.expanduser(plain))):
            self._outside.append(str(path))
            return path
        return None

    def notes(self, file: str) -> list[str]:
        """Messages about images that are not where the file says.

        Args:
            file: the annotation file, for the messages.
        """
        elsewhere = pluralize(len(self._elsewhere), "image has", "images have") + f" another path than in {file}"
        outside = pluralize(len(self._outside), "image", "images") + f" of {file} outside the data folder"
        notes = {elsewhere: self._elsewhere, outside: self._outside}
        return [f"{note}: {some(paths)}" for note, paths in notes.items() if paths]

    @cached_property
    def _indices(self) -> list[tuple[Path, dict[str, list[Path]]]]:
        indices = []
        for folder in self.folders:
            index: dict[str, list[Path]] = {}
            for path in walk(folder).images:
                index.setdefault(match_key(path.relative_to(folder).as_posix()), []).append(path)
            indices.append((folder, index))
        return indices


def _choose(paths: list[Path], path: Path) -> Path | None:
    """The path itself if it is among those that differ in letter case or Unicode form, else the only one of them."""
    if path in paths:
        return path
    same_case = [other for other in paths if normalized(str(other)) == normalized(str(path))]
    return same_case[0] if len(same_case) == 1 else paths[0] if len(paths) == 1 else None
