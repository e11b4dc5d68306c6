"""The weights of torchvision's detectors and segmenters."""

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

from visiontune.errors import UserError
from visiontune.models.backbones.sources import read_tensors
from visiontune.models.backbones.weight_folders import sha256
from visiontune.models.pretrained.torchvision_detection import rename_detector
from visiontune.models.pretrained.torchvision_segmentation import rename_segmenter
from visiontune.models.pretrained.weights import KEY, PretrainedWeights
from visiontune.runs.disk import check_free

PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and Lightning


class TorchvisionWeights(PretrainedWeights):
    """torchvision's default weights of a model.

    Attributes:
        file: where torchvision keeps the download.

    Raises:
        UserError: torchvision has no such detector or segmenter.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.name, self.weights = settings["name"], find_weights(settings["name"])
        self.categories = list(self.weights.meta["categories"])
        self.source, self.size = f"torchvision {self.weights}", f"{self.weights.meta['_file_size']:.0f} MB"
        self.file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(self.weights.url).path).name

    def is_cached(self) -> bool:
        return self.file.is_file()

    def download(self) -> dict[str, Tensor]:
        if self.is_cached():
            try:
                return read_tensors(self.file, KEY)
            except UserError as error:
                raise UserError(f"{error}. If {self.file} is damaged, delete it to download it again") from error
        size = round(self.weights.meta["_file_size"] * 2**20)
        advice = "set TORCH_HOME to a folder of another disk, which is torchvision's cache"
        check_free(self.file.parent, size, advice)
        try:
            return self.weights.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
        except (OSError, HTTPException, RuntimeError) as error:  # no network, a full disk, another hash
            copy = f"run `curl -L -O {self.weights.url}`, and copy the file to {self.file}"
            raise self.explain_download(error, copy) from error

    def fetch(self) -> tuple[list[Path], list[str]]:
        self.download()
        notes = []
        expected = re.search(r"-([0-9a-f]{8,})\.", self.file.name)
        if expected and not sha256(self.file).startswith(expected[1]):
            notes.append(
                f"{self.file}: its SHA-256 does not begin with {expected[1]}, as that of torchvision's file; delete it "
                "to download it again"
            )
        return [self.file], notes

    def read(self, path: str) -> dict[str, Tensor]:
        """The tensors of a file that torch.save or safetensors wrote, or of a folder, without a wrapper's prefix."""
        state = read_tensors(Path(path).expanduser(), KEY)
        if "backbone.mean" in state:
            raise UserError(
                f"{KEY}={path} is a checkpoint of visiontune: write weights_from=RUN with its run directory"
            )
        for prefix in PREFIXES:
            if all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
        return state

    def rename(self, state: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
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
