"""Damaged tables, lists and folders are used, or refused with a message that names the file or folder."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inputs import write_folders

from visiontune.data.readers import csv_table, image_folder
from visiontune.data.schema import Sample, Source
from visiontune.errors import UserError

COUNT = 500
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "latin-1")
PIECES = (
    b"\0", b'"', b'""', b",", b";", b"\t", b"\r", b"\n", b"\n\n", b"sep=;\n", b"nan", b"None", b"1,5", b"1e400", b"inf",
    b"\xff\xfe", b"\xe9", b"\xed\xb3\xa9", b"../", b"/etc/", b"C:\\", b"~/", b"/" * 300, b"9" * 5000, b"a" * 70_000,
)  # fmt: skip
NAMES = (
    "cat", "Caf\u00e9", "Cafe\u0301", "$x_1", "a b", "nan", "0", "-", "..x", "x" * 200, "\u202e", "caf\udce9", "*?[",
)  # fmt: skip


def damage(data: bytes, rng: random.Random) -> bytes:
    """The data after one to four changes of bytes, lines or encoding."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        lines = data.split(b"\n")
        line = rng.randrange(len(lines))
        kind = rng.randrange(6)
        if kind == 0 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = b"\n".join(lines[:line] + lines[line + 1 :])
        elif kind == 2:
            data = b"\n".join([*lines[:line], lines[rng.randrange(len(lines))], *lines[line:]])
        elif kind == 3:
            data = data[:at] + rng.choice(PIECES) + data[at:]
        elif kind == 4:
            data = data[:at]
        else:
            data = data.decode("utf-8", "replace").encode(rng.choice(ENCODINGS), "replace")
    return data


class Fuzz:
    """Counts the cases that are read, and collects those that end in anything but a UserError with a name."""

    def __init__(self) -> None:
        self.read = 0
        self.failures: list[str] = []

    def try_to_read(
        self, case: int, name: str, read: Callable[..., Source], *arguments: Any, **keys: Any
    ) -> list[Sample]:
        try:
            samples = read(*arguments, **keys).samples
        except UserError as error:
            if name not in str(error):
                self.failures.append(f"{case}: no {name!r} in {str(error)[:200]!r}")
            return []
        except Exception as error:
            self.failures.append(f"{case}: {type(error).__name__}: {error!s:.200}")
            return []
        self.read += 1
        return samples

    def check(self) -> None:
        assert not self.failures, self.failures[:5]
        assert COUNT // 10 < self.read < COUNT - COUNT // 10  # the damage is neither fatal nor harmless


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "set", count=6)


@pytest.mark.slow
def test_damaged_tables(root: Path) -> None:
    rows = [f"{name}/0{i}.png,{name},{i}.5,{i % 2},train,g{i}" for name in ("cat", "dog") for i in range(6)]
    text = "\n".join(["path,kind,size,flag,split,group", *rows]) + "\n"
    fuzz = Fuzz()
    for seed in range(COUNT):
        rng = random.Random(seed)
        data = text.replace(",", rng.choice(",;\t")).encode()
        (root / "t.csv").write_bytes(damage(data, rng))
        fuzz.try_to_read(seed, "t.csv", csv_table.read, root, "t.csv", label="kind", labels=["flag"], targets=["size"])
    fuzz.check()


@pytest.mark.slow
def test_damaged_lists(root: Path) -> None:
    (root / "lists").mkdir()
    lines = [f"{name}/0{i}.png" for i in range(6) for name in ("cat", "dog")]
    fuzz = Fuzz()
    for seed in range(COUNT):
        rng = random.Random(seed)
        for split, part in (("train", lines[:8]), ("val", lines[8:])):
            data = ("\n".join(part) + "\n").encode()
            (root / f"lists/{split}.txt").write_bytes(damage(data, rng) if rng.random() < 0.7 else data)
        fuzz.try_to_read(seed, "lists", image_folder.read, root, splits="lists")
    fuzz.check()


@pytest.mark.slow
def test_damaged_folders(root: Path, tmp_path: Path) -> None:
    """Links to anything, hidden files, odd names, empty folders, pipes: each real image is read once."""
    fuzz = Fuzz()
    for seed in range(COUNT):
        rng = random.Random(seed)
        copy = tmp_path / "copy"
        shutil.copytree(root, copy)
        for _ in range(rng.randint(1, 6)):
            _change_tree(copy, rng)
        samples = fuzz.try_to_read(seed, str(copy), image_folder.read, copy)
        if len({os.path.realpath(copy / sample.path) for sample in samples}) < len(samples):
            fuzz.failures.append(f"{seed}: an image is read twice")
        shutil.rmtree(copy)
    fuzz.check()


def _change_tree(root: Path, rng: random.Random) -> None:
    """Add a link, a folder, a pipe or a hidden file, or rename something."""
    places = [root, *(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())]
    entries = [path for path in root.rglob("*") if path.is_symlink() or path.is_file()]
    place, target = rng.choice(places), rng.choice([*places, *entries, root / "nowhere"])
    name = rng.choice(NAMES) + rng.choice(("", "", ".png", ".PNG", ".txt"))
    path = place / (rng.choice(("", "", ".", "@eaDir/")) + name)
    if os.path.lexists(path):
        return
    path.parent.mkdir(exist_ok=True)
    kind = rng.randrange(6)
    if kind < 2:
        os.symlink(rng.choice((target, os.path.relpath(target, path.parent))), path)
    elif kind == 2:
        path.mkdir()
    elif kind == 3:
        os.mkfifo(path)
    elif kind == 4:
        path.write_bytes(b"x")
    elif target.exists() and target != root and not path.is_relative_to(target):
        target.rename(path)
