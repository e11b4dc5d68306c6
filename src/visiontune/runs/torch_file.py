"""Read a file of `torch.save` that may come from elsewhere: it runs no code, and cannot claim more than it has."""

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visiontune.errors import UserError

CALLS = re.compile(rb"c(__builtin__|builtins)\nbytearray\n|c_codecs\nencode\n")
MAX_LEGACY = 64 * 2**20


def load_torch_file(path: Path, mmap: bool = False) -> Any:
    """Load tensors and plain data to the CPU.

    Args:
        mmap: tensors stay on the disk until they are used.

    Raises:
        UserError: an entry or a tensor claims more bytes than the file has.
        Exception: torch raises many types for a corrupt file, and for one that holds code.
    """
    check_entries(path)
    check_calls(path)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    _check_tensors(path, content)
    return content


def check_entries(path: Path) -> None:
    """Refuse a compressed archive: a megabyte can hold terabytes of zeros, and `torch.save` never compresses.

    Raises:
        UserError: the entries claim more bytes than the file has.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
    claimed = sum(entry.file_size for entry in entries)
    if claimed > (size := path.stat().st_size) or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(
            f"{path} has {size:,} bytes and claims to hold {claimed:,}, or is compressed: save it again with torch.save"
        )


def check_calls(path: Path) -> None:
    """Refuse calls that `weights_only=True` allows, and that fill any memory from a few bytes.

    Raises:
        UserError: the pickle calls one of them.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            pickles = [file.read(name) for name in file.namelist() if name.endswith("data.pkl")]
    else:
        with path.open("rb") as stream:
            pickles = [stream.read(MAX_LEGACY)]  # the format before torch 1.6 begins with its pickles
    if any(CALLS.search(content) for content in pickles):
        raise UserError(f"{path} holds bytes or a bytearray: save only tensors, numbers, texts, lists and dictionaries")


def check_sums(path: Path) -> None:
    """Verify the checksums in the file, which `torch.load` does not.

    Raises:
        UserError: the file is corrupt.
    """
    try:
        check_entries(path)
        with zipfile.ZipFile(path) as file:
            corrupt = file.testzip()
    except UserError:
        raise
    except Exception as error:  # zipfile and zlib raise many types for corrupt files
        raise UserError(f"{path} is corrupt: {error}") from error
    if corrupt:
        raise UserError(f"{path} is corrupt: the checksum of {corrupt} is wrong")


def _check_tensors(path: Path, content: Any) -> None:
    """A tensor with a stride of 0 has any shape at no cost, until it is used."""
    seen: set[int] = set()
    storages: dict[int, int] = {}
    stack = [content]
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor):
            claimed = value.numel() * value.element_size()
            if value.layout != torch.strided or value.is_meta or claimed > value.untyped_storage().nbytes():
                raise UserError(
                    f"{path} holds a tensor {tuple(value.shape)} without the values for its shape: save plain tensors "
                    "with torch.save"
                )
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            stack += value.values() if isinstance(value, dict) else value
    if (claimed := sum(storages.values())) > (size := path.stat().st_size):
        raise UserError(f"{path} has {size:,} bytes and claims to hold tensors of {claimed:,}: save it with torch.save")
