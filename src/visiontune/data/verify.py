"""Check every image once before training: report unreadable files, and hash the content of the others."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from visiontune.data.bad_files import BadFiles
from visiontune.data.image_notes import ImageNotes
from visiontune.data.images import ImageDecoder, describe_image
from visiontune.data.scan import hash_content, scan, scan_images
from visiontune.data.schema import Sample
from visiontune.errors import UserError, add_notes

FULL_UP_TO = 20_000  # images that `auto` decodes at most
EXAMPLES = 100  # images that `header` decodes, for notes


def verify(
    root: Path | None,
    samples: list[Sample],
    mode: str = "auto",
    bad: BadFiles | None = None,
    images: ImageNotes | None = None,
) -> list[Sample]:
    """Check every image and fill in `content`; samples whose image cannot be read are an error or left out.

    `full` decodes each file; `header` reads its header and hashes its bytes; `off` only hashes them; `auto` is `full`
    up to 20,000 images and `header` above, and always `full` if bad images are left out: otherwise a training could
    end at one. In every mode the content is a hash of all bytes, so that splits do not depend on the mode. A file is
    read again only if it has changed. For images that are not files, the hash is that of their shape and pixels.

    Args:
        images: has the decoder, and collects notes on the decoded images; with `header`, on about `EXAMPLES` of
            them, and on those that cannot be decoded.

    Raises:
        UserError: lists the first ten files that cannot be read, and how many there are; no image can be read; or
            samples have the same path.
    """
    if duplicates := len(samples) - len({sample.path for sample in samples}):
        raise UserError(f"{duplicates} samples are listed twice under the same path")
    bad, images = bad or BadFiles(), images or ImageNotes()
    on_disk = [sample.path for sample in samples if sample.image is None]
    contents = _contents(root or Path(), on_disk, _resolve(mode, len(on_disk), bad), bad, images)
    if samples and len(bad.problems) == len(samples):
        raise UserError(add_notes("no image of the data can be used", bad.notes()))
    return [
        replace(
            sample,
            content=sample.content or (contents[sample.path] if sample.image is None else _hash_pixels(sample.image)),
        )
        for sample in samples
        if sample.image is not None or sample.path in contents
    ]


def _resolve(mode: str, count: int, bad: BadFiles) -> str:
    return mode if mode != "auto" else "full" if count <= FULL_UP_TO or bad.policy == "skip" else "header"


def _contents(root: Path, paths: list[str], mode: str, bad: BadFiles, images: ImageNotes) -> dict[str, str]:
    if mode == "off":
        return scan(root, paths, _hash, "hashed", bad)
    contents = {}
    if mode == "header":
        headers = scan_images(root, paths, bad, images.decoder.max_pixels)
        contents = {path: content for path, (content, _) in headers.items()}
        paths, bad = [*contents][:: max(1, len(contents) // EXAMPLES)], BadFiles("skip")
    read = partial(_describe, decoder=images.decoder)
    decoded = scan(root, paths, read, f"described-{images.decoder.name}", bad)
    images.record({path: description for path, (_, description) in decoded.items()})
    if mode == "header":
        images.problems |= bad.problems
    return contents or {path: content for path, (content, _) in decoded.items()}


def _describe(path: Path, decoder: ImageDecoder) -> tuple[str, dict[str, Any]]:
    data = path.read_bytes()
    return hash_content(data), describe_image(data, decoder)


def _hash(path: Path) -> str:
    return hash_content(path.read_bytes())


def _hash_pixels(image: Tensor | Callable[[], Tensor]) -> str:
    pixels = (image if isinstance(image, Tensor) else image()).contiguous().numpy()
    return hashlib.blake2b(str(pixels.shape).encode() + pixels.tobytes(), digest_size=16).hexdigest()
