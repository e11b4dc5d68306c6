"""Outputs of views of samples, in memory or in files."""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from torch import Tensor

from visiontune.errors import UserError

DTYPES = {16: torch.float16, 32: torch.float32}


class Store:
    """For each view: path -> outputs of all samples, and what else a sample has (targets, path, size).

    Args:
        samples: how many there are.
        bits: of a number as it is kept, 16 or 32.
        folder: where the outputs go; None keeps them in memory.
    """

    def __init__(self, samples: int, bits: int, folder: Path | None = None) -> None:
        self.samples, self.dtype, self.folder = samples, DTYPES[bits], folder
        self.items: dict[int, list[dict[str, Any]]] = {}
        self.tables: dict[tuple[int, str], Tensor] = {}
        self.kinds: dict[str, torch.dtype] = {}  # as the network gave them

    def put(self, view: int, path: str, index: Tensor, output: Tensor) -> None:
        """Rows `index` of the table of `path`.

        Raises:
            UserError: a number is too large for 16 bits, or the disk is full.
        """
        rows = _last(output).to("cpu", self.dtype)
        if rows.isinf().any() and output.isfinite().all():
            raise UserError(
                f"{path} gives numbers above 65504, which 16 bits cannot hold: write strategy.cache_bits=32"
            )
        if (view, path) not in self.tables:
            self.tables[view, path] = self._table((self.samples, *rows.shape[1:]))
        self.kinds[path] = output.dtype
        self.tables[view, path][index] = rows

    def get(self, view: int, path: str, index: Tensor) -> Tensor:
        """Outputs ``(B, ...)`` as the network gave them, but for the rounding."""
        return _first(self.tables[view, path][index].to(self.kinds[path]))

    def keep(self, paths: set[str]) -> None:
        """Forget the outputs of all others; without any, all that is kept."""
        self.tables = {key: table for key, table in self.tables.items() if key[1] in paths}
        if not paths:
            self.items = {}

    def _table(self, shape: tuple[int, ...]) -> Tensor:
        if self.folder is None:
            return torch.empty(shape, dtype=self.dtype)
        count = torch.Size(shape).numel()
        # Without a name from here on, the file is gone with the table, and with the process however that ends.
        with NamedTemporaryFile(dir=self.folder, prefix=".frozen.") as file:
            table = torch.from_file(file.name, shared=True, size=count, dtype=self.dtype).view(shape)
            try:
                if hasattr(os, "posix_fallocate"):  # a disk that is full later would end the process without a word
                    os.posix_fallocate(file.fileno(), 0, count * self.dtype.itemsize)
            except OSError as error:
                raise UserError(
                    f"no room for the outputs of frozen stages in {self.folder} ({error.strerror}): free "
                    f"{count * self.dtype.itemsize / 1e9:.3g} GB, or write strategy.cache=none"
                ) from error
        return table


def _last(output: Tensor) -> Tensor:
    """Channels last, the order that convolutions are fast in."""
    return output.permute(0, 2, 3, 1) if output.ndim == 4 else output


def _first(rows: Tensor) -> Tensor:
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows
