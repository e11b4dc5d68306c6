"""Check every image once before training: report unreadable files, and hash the content of the others."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from visiontune.data.images import load_image
from visiontune.data.scan import scan
from visiontune.data.schema import Sample
from visiontune.errors import UserError

FULL_UP_TO = 20_000
CACHES = {"full": "full", "header": "opened", "off": "hashed"}


def verify(root: Path | None, samples: list[Sample], mode: str = "auto", cache_dir: Path | None = None) -> list[Sample]:
    """Check every image and fill in `content`.

    `full` decodes each file; `header` reads only its header; `off` checks nothing; `auto` is `full` up to 20,000 images
    and `header` above. In every mode the content is a hash of all bytes, so that splits do not depend on the mode. A
    file is read again only if its path, size or modification time has changed. For images that are not files, the hash
    is that of their shape and pixels.

    Raises:
        UserError: lists the first ten files that cannot be read, and how many there are; or samples have the same path.
    """
    if duplicates := len(samples) - len({sample.path for sample in samples}):
        raise UserError(f"{duplicates} samples are listed twice under the same path")
    on_disk = [sample.path for sample in samples if sample.image is None]
    mode = _resolve(mode, len(on_disk))
    read = {"full": _hash_decodable, "header": _hash_opened, "off": _hash}[mode]
    contents = scan(root or Path(), on_disk, read, CACHES[mode], cache_dir)
    return [
        replace(
            sample,
            content=sample.content or (contents[sample.path] if sample.image is None else _hash_pixels(sample.image)),
        )
        for sample in samples
    ]


def _resolve(mode: str, count: int) -> str:
    return mode if mode != "auto" else "full" if count <= FULL_UP_TO else "header"


def _hash_decodable(path: Path) -> str:
    # Whether a file can be decoded does not depend on the number of channels.
    load_image(path)
    return _hash(path)


def _hash_opened(path: Path) -> str:
    with Image.open(path):  # reads only the header
        return _hash(path)


def _hash(path: Path) -> str:
    content = path.read_bytes()
    if not content:
        raise ValueError("the file is empty")
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _hash_pixels(image: Tensor | Callable[[], Tensor]) -> str:
    pixels = (image if isinstance(image, Tensor) else image()).contiguous().numpy()
    return hashlib.blake2b(str(pixels.shape).encode() + pixels.tobytes(), digest_size=16).hexdigest()
