"""Recorded outputs of a split's samples, in memory or in files."""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from torch import Tensor

from visiontune.errors import UserError

DTYPES = {16: torch.float16, 32: torch.float32}


class Store:
    """For each view of the samples: a table of outputs by module path, and the rest of each item (targets, path, size).

    Args:
        samples: number of samples of the split.
        bits: bits per stored number, 16 or 32.
        folder: folder of the files that hold the tables; None keeps them in memory.
    """

    def __init__(self, samples: int, bits: int, folder: Path | None = None) -> None:
        self.samples, self.dtype, self.folder = samples, DTYPES[bits], folder
        self.items: dict[int, list[dict[str, Any]]] = {}
        self.tables: dict[tuple[int, str], Tensor] = {}
        self.output_dtypes: dict[str, torch.dtype] = {}  # as the network computes them

    def put(self, view: int, path: str, index: Tensor, output: Tensor) -> None:
        """Write outputs ``(B, ...)`` to the rows `index` of the table of `path`.

        Raises:
            UserError: a number is too large for 16 bits, or the disk is full.
        """
        rows = _channels_last(output).to("cpu", self.dtype)
        if rows.isinf().any() and output.isfinite().all():
            raise UserError(f"{path} returns numbers above 65504, too large for 16 bits: write frozen_features.bits=32")
        if (view, path) not in self.tables:
            self.tables[view, path] = self._create_table((self.samples, *rows.shape[1:]))
        self.output_dtypes[path] = output.dtype
        self.tables[view, path][index] = rows

    def get(self, view: int, path: str, index: Tensor) -> Tensor:
        """The outputs ``(B, ...)`` in the rows `index`, in the dtype of the network, rounded to `bits`."""
        return _channels_first(self.tables[view, path][index].to(self.output_dtypes[path]))

    def keep_only(self, paths: set[str]) -> None:
        """Drop the outputs of all other modules; without any paths, drop the items as well."""
        self.tables = {key: table for key, table in self.tables.items() if key[1] in paths}
        if not paths:
            self.items = {}

    def _create_table(self, shape: tuple[int, ...]) -> Tensor:
        if self.folder is None:
            return torch.empty(shape, dtype=self.dtype)
        count = torch.Size(shape).numel()
        # The file is unlinked at once: it disappears with the table, and with the process, even if that is killed.
        with NamedTemporaryFile(dir=self.folder, prefix=".frozen.") as file:
            table = torch.from_file(file.name, shared=True, size=count, dtype=self.dtype).view(shape)
            try:
                if hasattr(os, "posix_fallocate"):  # on a disk that fills up later, SIGBUS would kill the process
                    os.posix_fallocate(file.fileno(), 0, count * self.dtype.itemsize)
            except OSError as error:
                raise UserError(
                    f"no room for the outputs of frozen stages in {self.folder} ({error.strerror}): free "
                    f"{count * self.dtype.itemsize / 1e9:.3g} GB, or write frozen_features.cache=none"
                ) from error
        return table


def _channels_last(output: Tensor) -> Tensor:
    """The memory format in which convolutions are fast."""
    return output.permute(0, 2, 3, 1) if output.ndim == 4 else output


def _channels_first(rows: Tensor) -> Tensor:
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows
