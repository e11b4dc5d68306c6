"""MNIST's IDX files: where they are, and how to read compressed ones."""

import gzip
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile

from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

from visiontune.errors import UserError

PREFIXES = {"train": "train", "test": "t10k"}


def find_idx_files(root: Path, name: str) -> dict[str, tuple[Path, Path]] | None:
    """split -> (images, labels), from `root/NAME/raw`, `root/NAME`, `root/raw` or `root`.

    torchvision itself reads only the first of these folders, and no compressed files.
    """
    for folder in (root / name / "raw", root / name, root / "raw", root):
        files = {
            split: (_idx_file(folder, f"{prefix}-images", 3), _idx_file(folder, f"{prefix}-labels", 1))
            for split, prefix in PREFIXES.items()
        }
        complete = {split: (a, b) for split, (a, b) in files.items() if a is not None and b is not None}
        if "train" in complete:
            return complete
    return None


def read_idx_images(path: Path) -> Tensor:
    """``(N, 1, H, W)`` uint8. Raises UserError if the file is damaged."""
    return _read_idx(path, read_image_file).unsqueeze(1)


def read_idx_labels(path: Path) -> list[int]:
    """The label of each image. Raises UserError if the file is damaged."""
    return _read_idx(path, read_label_file).tolist()


def _idx_file(folder: Path, stem: str, dimensions: int) -> Path | None:
    # Some mirrors write a dot instead of the hyphen.
    for name in (f"{stem}-idx{dimensions}-ubyte", f"{stem}.idx{dimensions}-ubyte"):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def _read_idx(path: Path, read_file: Callable[[str], Tensor]) -> Tensor:
    """Apply torchvision's `read_image_file` or `read_label_file` to a file that may be compressed."""
    try:
        if path.suffix != ".gz":
            return read_file(str(path))
        with NamedTemporaryFile() as plain:
            plain.write(gzip.decompress(path.read_bytes()))
            plain.flush()
            return read_file(plain.name)
    except Exception as error:  # torchvision raises different types of errors for each kind of damage
        raise UserError(f"{path} is not a complete IDX file ({error}). Download it again.") from error
