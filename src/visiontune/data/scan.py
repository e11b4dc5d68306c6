"""Read every file once, and cache the results outside the data folder."""

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
    """The cache folder: `$XDG_CACHE_HOME/visiontune` or `~/.cache/visiontune`, never in the data folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "visiontune"


def scan(
    root: Path, paths: Iterable[str], read: Callable[[Path], Any], kind: str, cache_dir: Path | None = None
) -> dict[str, Any]:
    """The result of `read` for each file, by path under the root.

    Results are cached: a file is read again only if its path, size or modification time has changed.

    Args:
        read: its results are stored as JSON, which turns tuples into lists.
        kind: name of the cache; different `read` functions need different names.

    Raises:
        UserError: lists the first ten files that cannot be read, and how many there are.
    """
    stamps = {path: _stamp(root / path) for path in paths}
    if not stamps:
        return {}
    root_hash = hashlib.blake2b(str(root.resolve()).encode(), digest_size=8).hexdigest()
    file = (cache_dir or cache_folder()) / "verified" / f"{root_hash}-{kind}.json"
    cached = _read_cache(file)
    results = {path: cached[path][2] for path, stamp in stamps.items() if stamp and cached.get(path, [])[:2] == stamp}
    remaining = [path for path in stamps if path not in results]
    problems: list[tuple[str, str]] = []
    for path, (value, problem) in zip(remaining, _in_parallel(read, [root / path for path in remaining]), strict=True):
        if problem:
            problems.append((path, problem))
        else:
            results[path] = value
    if remaining:
        updated = {path: [*(stamps[path] or []), value] for path, value in results.items()}
        _write_cache(file, cached | updated)
    if problems:
        count = "1 image" if len(problems) == 1 else f"{len(problems)} images"
        lines = listed([f"{path}: {problem}" for path, problem in sorted(problems)])
        raise UserError(f"{count} under {root} cannot be read; repair or remove:{lines}")
    return results


def read_image_sizes(root: Path, paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """(H, W) of each image after its EXIF orientation is applied."""
    return {path: (size[0], size[1]) for path, size in scan(root, paths, read_image_size, "size").items()}


def _in_parallel(read: Callable[[Path], Any], paths: list[Path]) -> list[tuple[Any, str]]:
    """`(result, "")` or `(None, problem)` for each path, in threads: decoding and hashing release the GIL."""

    def try_read(path: Path) -> tuple[Any, str]:
        try:
            return read(path), ""
        except UserError as error:
            return None, reason(error.__cause__ or error)
        except PROBLEMS as error:
            return None, reason(error)

    hide_progress = len(paths) < 500 or not sys.stderr.isatty()
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        results = pool.map(try_read, paths)
        return list(track(results, "Checking images", len(paths), console=Console(stderr=True), disable=hide_progress))


def _stamp(path: Path) -> list[int] | None:
    try:
        info = path.stat()
    except OSError:  # reported with the other unreadable files when it is read
        return None
    return [info.st_size, info.st_mtime_ns]


def _read_cache(file: Path) -> dict[str, list]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):  # missing or incomplete: read the files again
        return {}


def _write_cache(file: Path, results: dict[str, list]) -> None:
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(results))
        part.replace(file)
    except OSError as error:  # a read-only home folder must not stop the run
        print(
            f"note: {file} cannot be written ({error.strerror}); images are checked again next time",
            file=sys.stderr,
        )
