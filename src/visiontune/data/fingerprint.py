"""Short hashes of targets, so that a resumed run notices changed labels."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor

from visiontune.data.targets import is_stored

PLAIN = (int, float, str, bytes)


def fingerprint(targets: Mapping[str, Any]) -> str:
    """A hash of a sample's targets: equal in every process and for every location of the files."""
    digest = hashlib.blake2b(digest_size=8)
    for part in _parts(targets):
        digest.update(part)
    return digest.hexdigest()


def hash_mask(codes: np.ndarray) -> str:
    """The hash of a mask's pixels, which identifies a target that is stored in a file."""
    return hashlib.blake2b(codes.tobytes(), digest_size=8).hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        value = value.as_subclass(Tensor).numpy()
    if isinstance(value, np.ndarray):
        yield f"{value.dtype.str}{value.shape};".encode()
        yield value.tobytes()
    elif value is None or isinstance(value, PLAIN):
        yield f"{value!r};".encode()
    elif isinstance(value, list | tuple):
        yield f"{len(value)}:".encode()
        if all(isinstance(item, PLAIN) for item in value):
            yield repr(value).encode()  # at once: a large set has millions of numbers
        else:
            for item in value:
                yield from _parts(item)
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield f"{key}:".encode()
            yield from _parts(value[key])
    elif is_dataclass(value):
        for field in fields(value):
            yield f"{field.name}:".encode()
            yield from _parts(getattr(value, field.name))
    elif is_stored(value):  # a user's class: only its labels are known
        yield from _parts(list(value.labels))
    # Other values are not part of a label, such as the path of its file.
