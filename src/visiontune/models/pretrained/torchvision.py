"""The weights of torchvision's detectors and segmenters: tensors, size and classes. Reading them runs no code."""

import difflib
import re
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor
from torchvision import models

from visiontune.errors import UserError, first_line
from visiontune.models.backbones.sources import read_tensors
from visiontune.models.backbones.weight_folders import sha256
from visiontune.models.pretrained.torchvision_detection import rename_detector
from visiontune.models.pretrained.torchvision_segmentation import rename_segmenter
from visiontune.runs.disk import check_free

KEY = "pretrained.weights"
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and Lightning


class TorchvisionWeights:
    """The weights of one model, see `load_pretrained`.

    Args:
        settings: the config's `pretrained`.

    Attributes:
        categories: the classes, in the order of their rows.
        source, size: where the download comes from, and how large it is, in words.

    Raises:
        UserError: torchvision has no such detector or segmenter.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.name, self.weights = settings["name"], find_weights(settings["name"])
        self.categories = list(self.weights.meta["categories"])
        self.source, self.size = f"torchvision {self.weights}", f"{self.weights.meta['_file_size']:.0f} MB"

    def is_cached(self) -> bool:
        return cached_file(self.weights).is_file()

    def download(self) -> dict[str, Tensor]:
        return download(self.weights, self.name)

    def fetch(self) -> tuple[list[Path], list[str]]:
        """The files in the cache, downloaded if they are not there, and notes about them."""
        return fetch_files(self.name)

    def read(self, path: str) -> dict[str, Tensor]:
        return read_weights(path)

    def rename(self, state: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
        """The tensors under the names of a FineTuner."""
        return rename_segmenter(state, task) if task == "segmentation" else rename_detector(state, task)


def find_weights(name: str) -> Any:
    """torchvision's default weights of a model, an entry of a `WeightsEnum`.

    Raises:
        UserError: torchvision has no such detector or segmenter.
    """
    names = [*models.list_models(module=models.detection), *models.list_models(module=models.segmentation)]
    if name not in names:
        near = difflib.get_close_matches(name, names) or names
        raise UserError(f"pretrained.name={name}: torchvision has no such model; near it: {', '.join(near)}")
    return models.get_model_weights(name).DEFAULT


def cached_file(weights: Any) -> Path:
    """Where torchvision keeps the downloaded file."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name


def download(weights: Any, name: str) -> dict[str, Tensor]:
    """The tensors of torchvision's weights, from its cache or by a download whose hash is checked.

    Raises:
        UserError: the download failed, the disk is too small for it, or the file in the cache is damaged.
    """
    file = cached_file(weights)
    if file.is_file():
        try:
            return read_tensors(file, KEY)
        except UserError as error:
            raise UserError(f"{error}. If {file} is damaged, delete it to download it again") from error
    size = round(weights.meta["_file_size"] * 2**20)
    check_free(file.parent, size, "set TORCH_HOME to a folder of another disk, which is torchvision's cache")
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, HTTPException, RuntimeError) as error:  # no network, a full disk, another hash
        raise UserError(
            f"{KEY}=default: the weights of {name} could not be downloaded ({first_line(error)[:200]}). On a machine "
            f"with a network run `visiontune fetch pretrained={name} output=DIR`, copy DIR here and write {KEY}=DIR; "
            f"or run `curl -L -O {weights.url}`, and copy the file to {file}"
        ) from error


def fetch_files(name: str) -> tuple[list[Path], list[str]]:
    """The files of a model's weights, in torchvision's cache or downloaded to it; and notes about them.

    Raises:
        UserError: as `download`.
    """
    weights = find_weights(name)
    download(weights, name)
    file, notes = cached_file(weights), []
    expected = re.search(r"-([0-9a-f]{8,})\.", file.name)
    if expected and not sha256(file).startswith(expected[1]):
        notes.append(
            f"{file}: its SHA-256 does not begin with {expected[1]}, as that of torchvision's file; delete it to "
            "download it again"
        )
    return [file], notes


def read_weights(path: str) -> dict[str, Tensor]:
    """The tensors of a file that torch.save or safetensors wrote, or of a folder, without a wrapper's prefix.

    Raises:
        UserError: there is no such file, or it holds no tensors.
    """
    state = read_tensors(Path(path).expanduser(), KEY)
    if "backbone.mean" in state:
        raise UserError(f"{KEY}={path} is a checkpoint of visiontune: write weights_from=RUN with its run directory")
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
