"""Every file is looked at once; what was seen in it is remembered outside the data."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from visiontune.data.images import PROBLEMS, read_image_size, reason
from visiontune.errors import UserError, listed


def cache_folder() -> Path:
    """Where results are remembered: `$XDG_CACHE_HOME/visiontune` or `~/.cache/visiontune`, never beside the data."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "visiontune"


def scan(
    root: Path, paths: Iterable[str], look: Callable[[Path], Any], kind: str, cache_dir: Path | None = None
) -> dict[str, Any]:
    """What `look` says of each file, by path under the root.

    A file whose path, size and time are as remembered is not looked at again.

    Args:
        look: what it returns is remembered as JSON, so a tuple may come back as a list.
        kind: names the memory; results of different `look`s are of different kinds.

    Raises:
        UserError: lists the first ten files that cannot be read, and how many there are.
    """
    stamps = {path: _stamp(root / path) for path in paths}
    if not stamps:
        return {}
    place = hashlib.blake2b(str(root.resolve()).encode(), digest_size=8).hexdigest()
    memory = (cache_dir or cache_folder()) / "verified" / f"{place}-{kind}.json"
    remembered = _recall(memory)
    known = {
        path: remembered[path][2] for path, stamp in stamps.items() if stamp and remembered.get(path, [])[:2] == stamp
    }
    todo = [path for path in stamps if path not in known]
    bad: list[tuple[str, str]] = []
    for path, (seen, problem) in zip(todo, _in_parallel(look, [root / path for path in todo]), strict=True):
        if problem:
            bad.append((path, problem))
        else:
            known[path] = seen
    if todo:
        looked = {path: [*(stamps[path] or []), seen] for path, seen in known.items()}
        _remember(memory, remembered | looked)
    if bad:
        count = "1 image" if len(bad) == 1 else f"{len(bad)} images"
        lines = listed([f"{path}: {problem}" for path, problem in sorted(bad)])
        raise UserError(f"{count} under {root} cannot be read; repair or remove:{lines}")
    return known


def read_image_sizes(root: Path, paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """(H, W) of each image, as training will see it."""
    return {path: (size[0], size[1]) for path, size in scan(root, paths, read_image_size, "size").items()}


def _in_parallel(look: Callable[[Path], Any], paths: list[Path]) -> list[tuple[Any, str]]:
    """`(what was seen, "")` or `(None, problem)` of each path. Threads do: decoding and hashing release the lock."""

    def safely(path: Path) -> tuple[Any, str]:
        try:
            return look(path), ""
        except UserError as error:
            return None, reason(error.__cause__ or error)
        except PROBLEMS as error:
            return None, reason(error)

    quiet = len(paths) < 500 or not sys.stderr.isatty()
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        results = pool.map(safely, paths)
        return list(track(results, "Checking images", len(paths), console=Console(stderr=True), disable=quiet))


def _stamp(path: Path) -> list[int] | None:
    try:
        info = path.stat()
    except OSError:  # told with the other unreadable files, when it is looked at
        return None
    return [info.st_size, info.st_mtime_ns]


def _recall(memory: Path) -> dict[str, list]:
    try:
        return json.loads(memory.read_text())
    except (OSError, ValueError):  # never written, or cut off while writing: look again
        return {}


def _remember(memory: Path, results: dict[str, list]) -> None:
    part = memory.with_suffix(f".{os.getpid()}.part")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(results))
        part.replace(memory)
    except OSError as error:  # a read-only home costs a second look, not the run
        print(
            f"note: {memory} cannot be written ({error.strerror}); images are checked again next time",
            file=sys.stderr,
        )
