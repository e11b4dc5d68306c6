"""Walk through folders: every visible file at any depth, links included, and each real file once."""

import errno
import os
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

from visiontune.data.images import is_image
from visiontune.errors import UserError, pluralize, printable, some

# Thumbnails, trash and indices that operating systems and network storages write beside the user's files.
SYSTEM_NAMES = frozenset(
    (
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb", "@transcode", "~snapshot"),
        *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder", "icon\r"),
        *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("lost+found", "__pycache__"),
    )
)
MOST_LINKS = 40  # from link to link, as in Linux


@dataclass(frozen=True)
class Walk:
    """The files under a folder.

    Attributes:
        files: all visible files, sorted; the path of a file that a link leads to is the one through the link.
        notes: messages about everything that is left out.
    """

    files: list[Path]
    notes: list[str]

    @cached_property
    def images(self) -> list[Path]:
        return [path for path in self.files if is_image(path)]


def is_hidden(name: str) -> bool:
    """Whether the name is that of a hidden file or folder, or of one that a system or network storage writes."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def walk(folder: Path, without: Iterable[Path] = (), aliases: bool = False) -> Walk:
    """Find the files under one folder.

    Hidden and system files and folders are left out. Links are followed, also to places outside the folder, except
    links to a folder that contains them. Of several paths to a file, the one with the fewest links counts.

    Args:
        without: folders to leave out.
        aliases: keep further links to a file or folder: several images may share a mask or a label file.

    Raises:
        UserError: a folder cannot be read.
    """
    files, notes = walk_each([folder], folder, without, aliases)
    return Walk(files[folder], notes)


def walk_each(
    folders: Collection[Path], base: Path, without: Iterable[Path] = (), aliases: bool = False
) -> tuple[dict[Path, list[Path]], list[str]]:
    """The files of each folder (a class, a split), and notes; as `walk`, but a file belongs to one folder only.

    Args:
        folders: may be a mapping folder -> split, if several folders are one split.
        base: the folder that the notes name, and that the paths in them are relative to.

    Raises:
        UserError: a folder cannot be read, or links in two folders (two splits) lead to the same image.
    """
    splits = folders if isinstance(folders, Mapping) else {}
    walker = _Walker({os.path.realpath(path) for path in without}, aliases)
    for folder in dict.fromkeys(folders):
        place = _Place(0, str(folder), splits.get(folder, str(folder)))
        walker.enter(str(folder), place, os.path.realpath(folder))
    walker.follow_links()
    return {folder: [*map(Path, sorted(walker.files[str(folder)]))] for folder in folders}, walker.notes(str(base))


class _Place(NamedTuple):
    """The position of a folder or file in a walk."""

    links: int  # number of links on the way
    top: str  # the folder of `walk_each` that contains it
    split: str  # of `top`


class _Link(NamedTuple):
    path: str
    place: _Place
    folder: str  # the real path of the folder that contains it


class _Walker:
    def __init__(self, without: set[str], aliases: bool) -> None:
        self.without, self.aliases = without, aliases
        self.files: dict[str, list[str]] = {}
        self.folders: dict[str, tuple[str, _Place]] = {}  # real path -> path and place
        self.linked_files: dict[str, tuple[str, _Place]] = {}  # the same, for files outside these folders
        self.links: list[_Link] = []
        self.hidden: list[str] = []
        self.repeated: list[str] = []
        self.broken: list[str] = []
        self.special: list[str] = []
        self.real_paths: dict[str, str] = {}

    def enter(self, path: str, place: _Place, real: str) -> None:
        """Add the files under a folder, and collect the links in it.

        Args:
            real: the path of the folder without links.
        """
        files = self.files.setdefault(place.top, [])
        waiting = [(path, real)]
        while waiting:
            path, real = waiting.pop()
            if real in self.without or self._is_repeated(path, place, real, self.folders.get(real)):
                continue
            self.folders.setdefault(real, (path, place))
            for entry in self._entries(path):
                inner, real_inner = f"{path}{os.sep}{entry.name}", f"{real}{os.sep}{entry.name}"
                if is_hidden(entry.name):
                    self.hidden.append(inner)
                elif entry.is_symlink():
                    self.links.append(_Link(inner, place, real))
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append((inner, real_inner))
                elif not entry.is_file(follow_symlinks=False):
                    self.special.append(inner)
                elif not self._is_repeated(inner, place, real_inner, self.linked_files.get(real_inner)):
                    files.append(inner)

    def follow_links(self) -> None:
        """Follow the links in real folders first, then those in the folders that these lead to, and so on."""
        while self.links:
            links, self.links = sorted(self.links), []
            for link in links:
                try:
                    target, mode = self._follow(link)
                except PermissionError as error:
                    _refuse(link.path, error)
                except OSError:  # the target does not exist, or links lead to each other
                    self.broken.append(link.path)
                    continue
                place = link.place._replace(links=link.place.links + 1)
                if any(_contains(folder, target) for folder in self.without):
                    continue
                if stat.S_ISDIR(mode):
                    if _contains(target, link.folder) or _contains(target, self._real_path(place.top)):
                        self.repeated.append(link.path)
                    else:
                        self.enter(link.path, place, target)
                elif stat.S_ISREG(mode):
                    self._add_file(link.path, place, target)
                else:
                    self.special.append(link.path)

    def _add_file(self, path: str, place: _Place, real: str) -> None:
        """Add a file that a link leads to."""
        folder, name = os.path.split(real)
        first = self.linked_files.get(real)
        if folder in self.folders and not is_hidden(name):
            folder_path, folder_place = self.folders[folder]
            first = os.path.join(folder_path, name), folder_place
        if not self._is_repeated(path, place, real, first):
            self.linked_files.setdefault(real, (path, place))
            self.files[place.top].append(path)

    def _is_repeated(self, path: str, place: _Place, real: str, first: tuple[str, _Place] | None) -> bool:
        """Whether `first`, another path to it, counts instead. Raises UserError if both count alike, in two splits."""
        if first is None or first[0] == path or (self.aliases and place.links <= 1):
            return False
        is_folder = real in self.folders
        if first[1].links == place.links and first[1].split != place.split and (is_folder or is_image(Path(real))):
            raise UserError(
                f"{printable(first[0])} and {printable(path)} are the same {'folder' if is_folder else 'image'}, "
                f"{printable(real)}. An image has one class and one split: remove one of the links."
            )
        self.repeated.append(path)
        return True

    def _follow(self, link: _Link) -> tuple[str, int]:
        """The real path of a link's target, and its mode; `realpath` for each file would take three times as long.

        Raises:
            OSError: the target does not exist, or links lead to each other.
        """
        folder, name = link.folder, os.path.basename(link.path)
        for _ in range(MOST_LINKS):
            target = os.path.join(folder, os.readlink(os.path.join(folder, name)))
            head, name = os.path.split(target)
            if name in ("", ".", ".."):
                real = os.path.realpath(target, strict=True)
                return real, os.stat(real).st_mode
            folder = self._real_path(head)
            real = os.path.join(folder, name)
            mode = os.lstat(real).st_mode
            if not stat.S_ISLNK(mode):
                return real, mode
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), link.path)

    def _real_path(self, path: str) -> str:
        if path not in self.real_paths:
            self.real_paths[path] = os.path.realpath(path, strict=True)
        return self.real_paths[path]

    def _entries(self, path: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(path) as entries:
                return [*entries]
        except OSError as error:
            _refuse(path, error)

    def notes(self, base: str) -> list[str]:
        """One note for each reason to leave files out; `base` is the folder that the paths in them are relative to."""
        reasons = (
            (self.hidden, "hidden or system file or folder", "hidden and system files and folders"),
            (self.repeated, "link that repeats a file or folder", "links that repeat files or folders"),
            (self.broken, "broken link", "broken links"),
            (self.special, "pipe, socket or device", "pipes, sockets and devices"),
        )
        return [note for paths, name, names in reasons for note in note_left_out(base, sorted(paths), name, names)]


def note_left_out(folder: str | Path, paths: Sequence[str | Path], singular: str, plural: str) -> list[str]:
    """A note on paths of one kind in a folder; none without paths."""
    if not paths:
        return []
    count, verb = pluralize(len(paths), singular, plural), "is" if len(paths) == 1 else "are"
    names = [printable(os.path.relpath(path, folder)) for path in paths[:4]]
    return [f"{count} in {printable(folder)} {verb} left out: {some(names)}"]


def _refuse(path: str, error: OSError) -> NoReturn:
    raise UserError(
        f"{printable(path)}: cannot be read ({error.strerror}). Make it readable, or move it out of the data folder."
    ) from error


def _contains(folder: str, path: str) -> bool:
    """Whether the folder is the path itself or contains it; both without links."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
