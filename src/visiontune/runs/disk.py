"""The room on a disk."""

import shutil
from pathlib import Path

from visiontune.errors import UserError


def free_space(folder: Path) -> tuple[Path, int | None]:
    """The first folder on the path that exists, and the bytes that are free there; None if they are not known."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    total, _, free = shutil.disk_usage(place)
    return place, free if total else None  # some network file systems report neither


def megabytes(size: int) -> str:
    """A number of bytes in words."""
    return f"{size / 1e6:,.0f} MB"


def check_free(folder: Path, size: int, advice: str) -> None:
    """Check that the disk of `folder`, which need not exist yet, has room for weights of `size` bytes.

    Args:
        advice: how to choose another disk, in words that follow "Free some space, or".

    Raises:
        UserError: the disk has too little space.
    """
    place, free = free_space(folder.absolute())
    if free is not None and free < size:
        raise UserError(
            f"the disk of {place} has {megabytes(free)} free, and the weights need {megabytes(size)}. Free some space, "
            f"or {advice}"
        )
