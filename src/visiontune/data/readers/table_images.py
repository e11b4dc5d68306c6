"""Find the images that a table names: by path, by name without extension, or by a path of another machine."""

import os
import posixpath
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath

from visiontune.data.images import SUFFIXES
from visiontune.data.readers.folders import relative
from visiontune.data.readers.listed_images import is_foreign
from visiontune.data.text import normalized
from visiontune.data.walk import walk
from visiontune.errors import UserError, pluralize, some


class TableImages:
    """Finds images under a folder.

    Args:
        base: the folder that relative paths are relative to.
        root: the data folder; images outside of it are noted.
    """

    def __init__(self, base: Path, root: Path) -> None:
        self.base, self.root = base, root
        self.prefix: str | None = None  # the beginning of absolute paths that is replaced by `base`
        self._moved = 0
        self._stems: list[str] = []
        self._outside: list[str] = []

    def find(self, name: str, location: str) -> str | None:
        """The path of the image under the root, or None.

        Args:
            name: a path with slashes or backslashes.
            location: of the cell, for messages.

        Raises:
            UserError: several images have this name.
        """
        plain = name.replace("\\", "/")
        path = self._find(plain, location)
        if path is None:
            return None
        result = relative(path, self.root)
        if result.startswith("../"):
            self._outside.append(str(path))
        return result

    def notes(self) -> list[str]:
        """Messages about paths that are not as in the table."""
        notes = []
        if self._moved:
            count = pluralize(self._moved, "path begins", "paths begin")
            notes.append(f"{count} with {self.prefix or '/'}: {self.base} is used instead")
        if self._stems:
            notes.append(f"{pluralize(len(self._stems), 'path has', 'paths have')} no extension: {some(self._stems)}")
        if self._outside:
            count = pluralize(len(self._outside), "image is", "images are")
            notes.append(f"{count} outside data.root: {some(self._outside)}")
        return notes

    def _find(self, name: str, location: str) -> Path | None:
        path = Path(os.path.join(self.base, name))
        if os.path.isfile(path):
            return path
        if is_foreign(name):
            return self._find_moved(name)
        key = normalized(posixpath.normpath(name))
        if key in self._paths:
            return self._paths[key]
        if PurePosixPath(key).suffix.lower() in SUFFIXES:
            return None
        candidates = self._by_stem.get(key, [])
        if len(candidates) > 1:
            names = some([relative(candidate, self.root) for candidate in candidates])
            raise UserError(f"{location}: {name!r}: {len(candidates)} images have this name: {names}. Write the path.")
        if candidates:
            self._stems.append(f"{name} is {relative(candidates[0], self.root)}")
        return candidates[0] if candidates else None

    def _find_moved(self, name: str) -> Path | None:
        """The image of an absolute path of another place; all of them must begin with the same folder."""
        parts = normalized(name).split("/")
        ends = range(1, len(parts)) if self.prefix is None else [self.prefix.count("/") + 1]
        for start in ends:
            prefix, end = "/".join(parts[:start]), "/".join(parts[start:])
            if end in self._paths and self.prefix in (None, prefix):
                self.prefix = prefix
                self._moved += 1
                return self._paths[end]
        return None

    @cached_property
    def _paths(self) -> dict[str, Path]:
        """Normalized path under the folder -> image."""
        return {normalized(relative(path, self.base)): path for path in walk(self.base).images}

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        """Path without extension, or stem alone -> images."""
        images: dict[str, list[Path]] = defaultdict(list)
        for name, path in self._paths.items():
            for stem in {name.rpartition(".")[0], PurePosixPath(name).stem}:
                images[stem].append(path)
        return images
