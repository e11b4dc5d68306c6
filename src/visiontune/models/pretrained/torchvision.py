"""The weights of torchvision's detectors and segmenters: tensors, size and classes. Reading them runs no code."""

import difflib
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor
from torchvision import models

from visiontune.errors import UserError, first_line
from visiontune.models.backbones.sources import read_tensors

KEY = "pretrained.weights"
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and Lightning


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
        UserError: the download failed, or the file in the cache is damaged.
    """
    file = cached_file(weights)
    if file.is_file():
        return read_tensors(file, KEY)
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, HTTPException, RuntimeError) as error:  # no network, a full disk, another hash
        raise UserError(
            f"{KEY}=default: the weights of {name} could not be downloaded ({first_line(error)[:200]}). On a machine "
            f"with a network run `curl -L -O {weights.url}`; copy the file to {file}, or write {KEY}=FILE"
        ) from error


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
