"""MNIST and the sets in its layout, straight from their IDX files (Y. LeCun's format), compressed or not."""

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from visiontune.errors import UserError

PREFIXES = {"train": "train", "test": "t10k"}


def find(root: Path, name: str) -> dict[str, tuple[Path, Path]] | None:
    """split -> (images, labels), from `root/NAME/raw` (torchvision's place), `root/NAME`, `root/raw` or `root`."""
    for folder in (root / name / "raw", root / name, root / "raw", root):
        found = {
            split: (_file(folder, prefix, "images", 3), _file(folder, prefix, "labels", 1))
            for split, prefix in PREFIXES.items()
        }
        complete = {split: (a, b) for split, (a, b) in found.items() if a is not None and b is not None}
        if "train" in complete:
            return complete
    return None


def read_images(path: Path) -> Tensor:
    """`(N, 1, H, W)` uint8."""
    return _array(path, dimensions=3).unsqueeze(1)


def read_labels(path: Path) -> list[int]:
    return _array(path, dimensions=1).tolist()


def _file(folder: Path, prefix: str, what: str, dimensions: int) -> Path | None:
    # Some mirrors have a dot where the original has a hyphen.
    for name in (f"{prefix}-{what}-idx{dimensions}-ubyte", f"{prefix}-{what}.idx{dimensions}-ubyte"):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def _array(path: Path, dimensions: int) -> Tensor:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        # Magic: two zeros, 8 for unsigned bytes, the number of dimensions; then each dimension as a big-endian int.
        if data[:4] != bytes([0, 0, 8, dimensions]):
            raise ValueError(f"it begins with {data[:4].hex()}, not with 000008{dimensions:02x}")
        shape = struct.unpack_from(f">{dimensions}I", data, 4)
        values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
        return torch.from_numpy(values.reshape(shape).copy())
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise UserError(f"{path} is no complete IDX file ({error}). Fetch it again.") from error
