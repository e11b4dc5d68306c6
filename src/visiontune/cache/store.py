"""Outputs of views of samples, in memory or in files."""

from pathlib import Path
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
    """

    def __init__(self, samples: int, bits: int) -> None:
        self.samples, self.dtype = samples, DTYPES[bits]
        self.folder: Path | None = None  # where the outputs go; None keeps them in memory
        self.items: dict[int, list[dict[str, Any]]] = {}
        self.tables: dict[tuple[int, str], Tensor] = {}
        self.kinds: dict[str, torch.dtype] = {}  # as the network gave them

    def put(self, view: int, path: str, index: Tensor, output: Tensor) -> None:
        """Rows `index` of the table of `path`.

        Raises:
            UserError: a number is too large for 16 bits.
        """
        rows = _last(output).to("cpu", self.dtype)
        if not torch.isfinite(rows).all():
            raise UserError(
                f"{path} gives numbers above 65504, which 16 bits cannot hold: write strategy.cache_bits=32"
            )
        if (view, path) not in self.tables:
            self.tables[view, path] = self._table(f"{view}-{path}", (self.samples, *rows.shape[1:]))
        self.kinds[path] = output.dtype
        self.tables[view, path][index] = rows

    def get(self, view: int, path: str, index: Tensor) -> Tensor:
        """Outputs ``(B, ...)`` as the network gave them, but for the rounding."""
        return _first(self.tables[view, path][index].to(self.kinds[path]))

    def keep(self, paths: set[str]) -> None:
        """Forget the outputs of all others."""
        for view, path in list(self.tables):
            if path not in paths:
                del self.tables[view, path]
                if self.folder is not None:
                    (self.folder / f"{view}-{path}").unlink()

    def _table(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if self.folder is None:
            return torch.empty(shape, dtype=self.dtype)
        self.folder.mkdir(parents=True, exist_ok=True)
        count = torch.Size(shape).numel()
        return torch.from_file(str(self.folder / name), shared=True, size=count, dtype=self.dtype).view(shape)


def _last(output: Tensor) -> Tensor:
    """Channels last, the order that convolutions are fast in."""
    return output.permute(0, 2, 3, 1) if output.ndim == 4 else output


def _first(rows: Tensor) -> Tensor:
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows
