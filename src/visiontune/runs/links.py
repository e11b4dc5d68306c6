"""Links in a run directory from elsewhere: they may be read, and never be written through."""

import os
import stat
from pathlib import Path

from visiontune.errors import UserError


def check_links(folder: Path, place: Path | None = None) -> None:
    """Refuse to write to a run that has links to the outside.

    Args:
        folder: the run directory.
        place: check only this file or folder in the run and what is in it; by default the whole run.

    Raises:
        UserError: a link leads out of the run, or an entry is no file, folder or link.
    """
    folder = folder.resolve()
    place = place or folder
    if place != folder and folder in place.parents:
        for part in [*place.relative_to(folder).parents][-2::-1]:
            _check(folder, folder / part)
        _check(folder, place)
    for parent, folders, files in os.walk(place, followlinks=False):
        for name in (*folders, *files):
            _check(folder, Path(parent, name))
        if Path(parent) == folder / "wandb":  # W&B links to its cache in folders that it never writes again
            folders.clear()


def _check(folder: Path, path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        try:
            target = path.resolve()
        except (OSError, RuntimeError) as error:  # the type depends on the version of Python
            raise UserError(f"{path} is a link that leads to itself: delete it") from error
        if folder not in target.parents:
            raise UserError(
                f"{path} is a link to {target}, outside the run {folder}: nothing is written through it. Replace the "
                "link by what it leads to, write trust=true if you made it, or name another output"
            )
    elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path} is neither a file nor a folder: delete it")
