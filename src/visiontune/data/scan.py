"""Read every file once, and cache the results outside the data folder."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from visiontune.cores import usable_cores
from visiontune.data.bad_files import BadFiles, check_names
from visiontune.data.image_files import PROBLEMS, describe_excess, reason
from visiontune.data.images import DECODER, Header, ImageDecoder, read_header
from visiontune.data.progress import show_progress
from visiontune.errors import UserError, pluralize, some

CHUNK = 64  # files that a thread reads at a time


def cache_folder() -> Path:
    """The cache folder: `$XDG_CACHE_HOME/visiontune` or `~/.cache/visiontune`, never in the data folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "visiontune"


def scan(
    root: Path,
    paths: Iterable[str],
    read: Callable[[Path], Any],
    kind: str,
    bad: BadFiles | None = None,
) -> dict[str, Any]:
    """The result of `read` for each file, by path under the root.

    Results are cached: a file is read again if its size, its inode, or the time of a change of its content or its
    inode differs. The last two reveal another file of the same size and time at the same path.

    Args:
        read: its results are stored as JSON, which turns tuples into lists.
        kind: name of the cache; different `read` functions need different names.
        bad: decides what happens to files that cannot be read, which the result does not have; by default they are an
            error.

    Raises:
        UserError: lists the first ten files that cannot be read, and how many there are; or a name is not UTF-8.
    """
    paths = list(dict.fromkeys(paths))
    check_names(root, paths)
    root_hash = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=8).hexdigest()
    file = cache_folder() / "verified" / f"{root_hash}-{kind}.jsonl"
    results = _cached_results(file, root, set(paths))
    remaining = [path for path in paths if path not in results]
    stamps: dict[str, str] = {}
    problems: dict[str, str] = {}
    try:
        for path, stamp, value, problem in show_progress(_read_all(root, remaining, read), len(remaining), "Checking"):
            if problem:
                problems[path] = problem
            else:
                results[path], stamps[path] = value, stamp
    finally:  # an interrupted scan keeps what it has read
        if stamps:
            _extend_cache(file, ((path, stamp, results[path]) for path, stamp in stamps.items()), stamps.keys())
    (bad or BadFiles()).record(root, problems)
    return {path: results[path] for path in paths if path in results}


def read_image_sizes(
    root: Path, paths: Iterable[str], decoder: ImageDecoder = DECODER, bad: BadFiles | None = None
) -> dict[str, tuple[int, int]]:
    """(H, W) of each image as `decoder` decodes it.

    Args:
        bad: decides what happens to images that cannot be read or are too large, which the result does not have.
    """
    return {
        path: (width, height) if exif >= 5 and decoder.orientation == "apply" else (height, width)
        for path, (_, (height, width, exif, _)) in scan_images(root, paths, bad, decoder.max_pixels).items()
    }


def orientation_note(root: Path, paths: Iterable[str], orientation: str = "apply") -> list[str]:
    """A note on the images with an EXIF orientation, for data whose boxes or masks were drawn on the images."""
    headers = scan_images(root, paths, BadFiles("skip"))
    turned = [path for path, (_, header) in headers.items() if header.orientation != 1]
    if not turned:
        return []
    count = pluralize(len(turned), "image has", "images have")
    what = (
        "an EXIF orientation, which is applied: labels must fit the upright image, else write data.orientation=ignore"
        if orientation == "apply"
        else "an EXIF orientation, which is ignored (data.orientation=ignore)"
    )
    return [f"{count} {what}: {some(sorted(turned))}"]


def scan_images(
    root: Path, paths: Iterable[str], bad: BadFiles | None = None, max_pixels: int | None = None
) -> dict[str, tuple[str, Header]]:
    """path -> a hash of all bytes, and the header of each image; nothing is decoded.

    Args:
        bad: decides what happens to images that cannot be read or are too large, which the result does not have.
        max_pixels: see `ImageDecoder`.
    """
    bad = bad or BadFiles()
    contents = scan(root, paths, _read_image, "image-headers", bad)
    headers = {path: (content, Header(*header)) for path, (content, header) in contents.items()}
    excess = {
        path: problem
        for path, (_, header) in headers.items()
        if (problem := describe_excess((header.width, header.height), header.weight, max_pixels))
    }
    bad.record(root, excess)
    return {path: entry for path, entry in headers.items() if path not in excess}


def hash_content(data: bytes) -> str:
    """The hash of a file's bytes. Raises ValueError if there are none."""
    if not data:
        raise ValueError("the file is empty")
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _read_image(path: Path) -> list[Any]:
    data = path.read_bytes()
    return [hash_content(data), read_header(data)]


def _read_all(root: Path, paths: list[str], read: Callable[[Path], Any]) -> Iterator[tuple[str, str, Any, str]]:
    """`(path, stamp, result, "")` or `(path, "", None, problem)` for each path, in order.

    Threads read the files: decoding and hashing release the GIL.
    """

    def read_chunk(chunk: list[str]) -> list[tuple[str, str, Any, str]]:
        return [_try_read(root, path, read) for path in chunk]

    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(max_workers=min(usable_cores(), 16)) as pool:
        for chunk in pool.map(read_chunk, chunks):
            yield from chunk


def _try_read(root: Path, path: str, read: Callable[[Path], Any]) -> tuple[str, str, Any, str]:
    try:
        stamp = _stamp(os.path.join(root, path))  # first: a file that changes meanwhile is read again next time
        return path, stamp, read(root / path), ""
    except UserError as error:
        return path, "", None, reason(error.__cause__ or error)
    except PROBLEMS as error:
        return path, "", None, reason(error)


def _stamp(path: str) -> str:
    info = os.stat(path)
    return f"{info.st_size:x}-{info.st_mtime_ns:x}-{info.st_ctime_ns:x}-{info.st_ino:x}"


def _cached_results(file: Path, root: Path, paths: Collection[str]) -> dict[str, Any]:
    """The cached results of those of the files that have not changed."""
    results = {}
    for _, path, stamp, value in _cached_lines(file):
        try:
            if path in paths and stamp == _stamp(os.path.join(root, path)):
                results[path] = value
        except OSError:  # reported when it is read
            continue
    return results


def _cached_lines(file: Path) -> Iterator[tuple[str, str, str, Any]]:
    """`(line, path, stamp, result)` of each file in the cache; nothing if there is no cache."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    path, stamp, value = json.loads(line)
                except (ValueError, TypeError):  # not complete: the file is read again
                    continue
                yield line, path, stamp, value
    except OSError:
        return


def _extend_cache(file: Path, entries: Iterable[tuple[str, str, Any]], replaced: Collection[str]) -> None:
    """Write the entries and those in the file of other paths; nothing is written to the data folder."""
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as new:
            new.writelines(line for line, path, _, _ in _cached_lines(file) if path not in replaced)
            new.writelines(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries)
        part.replace(file)
    except OSError as error:  # a read-only home folder must not stop the run
        print(f"note: {file} cannot be written ({error.strerror}); images are checked again next time", file=sys.stderr)
    with suppress(OSError):  # after an error
        part.unlink()
