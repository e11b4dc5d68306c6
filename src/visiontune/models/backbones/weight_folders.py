"""Find the files of weights in a folder, such as Hugging Face's `model.safetensors` or its shards and their index."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from visiontune.errors import UserError, shell_override, some
from visiontune.runs.reading import read_json

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
INDEX = "model.safetensors.index.json"
DESCRIPTION = "weights.json"  # what `visiontune fetch` writes beside the weights


def find_files(folder: Path, key: str) -> dict[Path, set[str] | None]:
    """The files that hold the weights of one model, each with the names of its tensors if an index has them.

    They are the shards of an index or one `.safetensors` file; without these, one other file. Files in the
    `weights.json` of `visiontune fetch` must have its checksums.

    Args:
        key: of the config, for messages.

    Raises:
        UserError: there is no such file or more than one, or a file is missing or damaged, or the index names one
            outside the folder.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    index = folder / INDEX
    shards = _read_index(index, key) if index in files else {}
    candidates = [path for path in files if path == index or (path.suffix == ".safetensors" and path not in shards)]
    candidates = candidates or [path for path in files if path.suffix in SUFFIXES]
    if not candidates:
        run = "a run directory has checkpoints/best.ckpt"
        if key != "backbone.weights":
            run = f"for a run of visiontune write {shell_override('weights_from', folder)}"
        raise UserError(
            f"{key}={folder}: this folder has no file of weights ({', '.join(SUFFIXES)}); write the path of one, such "
            f"as {key}=weights/mine.pth; {run}"
        )
    if len(candidates) > 1:
        raise UserError(
            f"{key}={folder}: expected one file of weights, or shards with {INDEX}, got "
            f"{some([path.name for path in candidates], 5)}; write one file, such as "
            f"{shell_override(key, candidates[-1])}"
        )
    chosen: dict[Path, set[str] | None] = {**shards} or {candidates[0]: None}
    _check_sums(folder, chosen, key)
    return chosen


def _read_index(index: Path, key: str) -> dict[Path, set[str]]:
    """The shards of an index, with the names of their tensors."""
    entries = read_json(index).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"{key}: {index} is no index of shards: expected weight_map, a mapping of tensors to files")
    shards: dict[Path, set[str]] = {}
    for name, shard in entries.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise UserError(
                f"{key}: {index} has {name} in {shard!r}: expected a .safetensors file of the same folder, such as "
                "model-00001-of-00002.safetensors"
            )
        shards.setdefault(index.parent / shard, set()).add(name)
    if missing := sorted(path.name for path in shards if not path.is_file()):
        raise UserError(
            f"{key}={index.parent}: {some(missing)} {'is' if len(missing) == 1 else 'are'} missing, which {index.name} "
            "names: copy the whole folder"
        )
    return shards


def check_names(path: Path, state: Mapping[str, Tensor], names: set[str] | None, key: str) -> None:
    """Check that a shard has the tensors that the index lists for it.

    Raises:
        UserError: it has other tensors.
    """
    if names is not None and (different := sorted(names ^ state.keys())):
        raise UserError(
            f"{key}: {path} does not fit its index: {some(different)} {'is' if len(different) == 1 else 'are'} only in "
            "one of them; copy the whole folder again"
        )


def _check_sums(folder: Path, files: Mapping[Path, object], key: str) -> None:
    description = folder / DESCRIPTION
    sums = read_json(description).get("sha256") if description.is_file() else None
    for path in files:
        if isinstance(sums, dict) and path.name in sums and sums[path.name] != sha256(path):
            raise UserError(
                f"{key}: {path} is damaged, since it has another checksum than in {description.name}: copy the folder "
                "again"
            )


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
