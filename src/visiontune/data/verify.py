"""Every picture is looked at once, before training: unreadable ones are named, readable ones get a content hash."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import track

from visiontune.data.images import PROBLEMS, load_image, reason
from visiontune.data.schema import Sample
from visiontune.errors import UserError

FULL_UP_TO = 20_000
HEAD_BYTES = 64 * 1024
MODES = ("auto", "full", "header", "off")


def cache_folder() -> Path:
    """Where results are remembered: `$XDG_CACHE_HOME/visiontune` or `~/.cache/visiontune`, never beside the data."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "visiontune"


def verify(root: Path | None, samples: list[Sample], mode: str = "auto", cache_dir: Path | None = None) -> list[Sample]:
    """Check every picture and fill in `content`.

    `full` decodes each file and hashes all its bytes; `header` opens it and hashes its size and first 64 KiB; `off`
    hashes like `header` and opens nothing; `auto` is `full` up to 20,000 pictures and `header` above. A file whose
    path, size and time are as remembered is not read again. Pictures in memory are hashed, shape and all.

    Raises:
        UserError: lists the first ten files that cannot be read, and how many there are.
    """
    if mode not in MODES:
        raise UserError(f"data.verify={mode!r}: choose one of {', '.join(MODES)}")
    on_disk = [sample for sample in samples if sample.image is None]
    contents = _scan(root or Path(), on_disk, _resolve(mode, len(on_disk)), cache_dir or cache_folder())
    return [
        replace(sample, content=_hash_memory(sample) if sample.image is not None else contents[sample.path])
        for sample in samples
    ]


def _resolve(mode: str, count: int) -> str:
    return mode if mode != "auto" else "full" if count <= FULL_UP_TO else "header"


def _scan(root: Path, samples: list[Sample], mode: str, cache_dir: Path) -> dict[str, str]:
    """Content hash of every file, from memory or by looking."""
    if not samples:
        return {}
    look = {"full": _look_full, "header": _look_header, "off": _hash_head}[mode]
    place = hashlib.blake2b(str(root.resolve()).encode(), digest_size=8).hexdigest()
    memory = cache_dir / "verified" / f"{place}-{mode}.json"
    remembered = _recall(memory)
    stamps = {sample.path: _stamp(root / sample.path) for sample in samples}
    known = {
        path: remembered[path][2] for path, stamp in stamps.items() if stamp and remembered.get(path, [])[:2] == stamp
    }
    todo = [path for path in stamps if path not in known]
    bad: list[tuple[str, str]] = []
    for path, (content, problem) in zip(todo, _in_parallel(look, [root / path for path in todo]), strict=True):
        if problem:
            bad.append((path, problem))
        else:
            known[path] = content
    if todo:
        looked = {path: [*(stamps[path] or []), content] for path, content in known.items()}
        _remember(memory, remembered | looked)
    if bad:
        lines = "".join(f"\n  {path}: {problem}" for path, problem in sorted(bad)[:10])
        more = f"\n  and {len(bad) - 10} more" if len(bad) > 10 else ""
        count = "1 picture" if len(bad) == 1 else f"{len(bad)} pictures"
        raise UserError(f"{count} under {root} cannot be read; repair or remove:{lines}{more}")
    return known


def _in_parallel(look: Callable[[Path], str], paths: list[Path]) -> list[tuple[str, str]]:
    """`(content, "")` or `("", problem)` of each path. Threads do: decoding and hashing release the lock."""

    def safely(path: Path) -> tuple[str, str]:
        try:
            return look(path), ""
        except UserError as error:
            return "", reason(error.__cause__ or error)
        except PROBLEMS as error:
            return "", reason(error)

    quiet = len(paths) < 500 or not sys.stderr.isatty()
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        results = pool.map(safely, paths)
        return list(track(results, "Checking pictures", len(paths), console=Console(stderr=True), disable=quiet))


def _look_full(path: Path) -> str:
    # Channels as training reads them make no difference to whether a file decodes.
    load_image(path)
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _look_header(path: Path) -> str:
    with Image.open(path):  # reads the header alone
        return _hash_head(path)


def _hash_head(path: Path) -> str:
    size = path.stat().st_size
    if not size:
        raise ValueError("the file is empty")
    with path.open("rb") as file:
        return hashlib.blake2b(str(size).encode() + file.read(HEAD_BYTES), digest_size=16).hexdigest()


def _hash_memory(sample: Sample) -> str:
    assert sample.image is not None
    pixels = sample.image.contiguous().numpy()
    return hashlib.blake2b(str(pixels.shape).encode() + pixels.tobytes(), digest_size=16).hexdigest()


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
            f"note: {memory} cannot be written ({error.strerror}); pictures are checked again next time",
            file=sys.stderr,
        )
