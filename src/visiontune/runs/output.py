"""Check the folder that a command writes to before anything is loaded or trained."""

import os
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from visiontune.errors import UserError, shell_override
from visiontune.runs.predictions import COLUMNS
from visiontune.runs.reading import read_json


def check_output(folder: Path, inputs: Iterable[Path] = (), key: str = "output") -> Path:
    """Check that `folder` can be written, or created and then written; nothing is left there.

    Args:
        inputs: files that the command reads; none of them may be in the folder.
        key: the key, or keys, that choose the folder, for the message.

    Returns:
        The folder, with `~` expanded.

    Raises:
        UserError: the folder cannot be written, is a run directory, or holds an input.
    """
    folder = folder.expanduser()
    first = key.split(" or ")[0]
    if reason := write_error(folder):
        if os.path.isfile(folder):
            example = shell_override(first, f"{folder}_{first.partition('_')[0]}")
            raise UserError(f"{folder} is a file: write a folder, such as {example}")
        keys = " or ".join(f"{name}=DIR" for name in key.split(" or "))
        raise UserError(f"cannot write to {folder}: {reason}; write {keys} with a folder that you may write to")
    if (folder / "config.yaml").is_file() and (folder / "status.json").is_file():
        raise UserError(
            f"{folder} is a run directory: write another folder, such as {shell_override(first, 'results')}"
        )

    @cache
    def is_inside(parent: Path) -> bool:
        return parent.absolute().is_relative_to(folder.absolute()) or parent.resolve().is_relative_to(folder.resolve())

    for path in inputs:
        if is_inside(path.parent) or (path.is_symlink() and is_inside(path.resolve().parent)):
            raise UserError(
                f"{key}={folder} holds an input, {path}, which could be overwritten: write another folder, such as "
                f"{shell_override(first, 'results')}"
            )
    return folder


def check_results(folder: Path, names: Iterable[str]) -> None:
    """Check that the results `names` replace nothing in `folder` but those of an earlier command.

    Raises:
        UserError: the folder has one of them, and no predictions.csv of this package.
    """
    try:
        with (folder / "predictions.csv").open(encoding="utf-8", errors="replace") as file:
            if file.readline().strip() == ",".join(COLUMNS):
                return
    except OSError:  # there is none, or it is a folder
        pass
    if existing := [name for name in names if not _is_empty(folder / name)]:
        raise UserError(
            f"{folder / existing[0]} exists and is not from an earlier command, so it is not replaced: write another "
            f"folder, such as {shell_override('output', 'results')}"
        )


def check_fetched(folder: Path, name: str, choice: Mapping[str, str]) -> None:
    """Check that a folder for the weights of one model has no other files than those of an earlier `fetch` of it.

    Args:
        name: of the file in which `fetch` writes the model.
        choice: the model, as that file has it.

    Raises:
        UserError: the folder has other files.
    """
    if not folder.is_dir() or not any(not path.name.startswith(".") for path in folder.iterdir()):
        return
    description = read_json(folder / name) if (folder / name).is_file() else {}
    if any(description.get(key) != value for key, value in choice.items()):
        raise UserError(
            f"{folder} has other files, so nothing is written there: write a new folder, such as "
            f"{shell_override('output', folder / next(iter(choice.values())))}"
        )


def _is_empty(path: Path) -> bool:
    """Whether nothing is there, or folders without files, such as those of a command that was stopped."""
    if path.is_dir() and not path.is_symlink():
        return all(inner.is_dir() for inner in path.rglob("*"))
    return not os.path.lexists(path)


def write_error(folder: Path) -> str | None:
    """Why no file can be written to `folder`, which need not exist; None if that is possible."""
    try:
        existing = folder
        while not existing.exists() and not existing.is_symlink():
            existing = existing.parent
        if not existing.is_dir():
            return f"{existing} is a {'broken link' if existing.is_symlink() else 'file'}"
        with tempfile.TemporaryFile(dir=existing):  # permissions are not enough: even root cannot write to /proc
            return None
    except OSError as error:
        return error.strerror or str(error)
