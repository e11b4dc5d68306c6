"""Write the weights of a pretrained model or a backbone into a folder, for machines without a network."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save

from visiontune.errors import UserError, shell_override
from visiontune.models.backbones import build, resolve_weights
from visiontune.models.backbones.weight_folders import DESCRIPTION, sha256
from visiontune.models.pretrained import LIBRARIES
from visiontune.runs.disk import check_free, megabytes
from visiontune.runs.files import temporary_path, write_json
from visiontune.runs.output import check_fetched, check_output


@dataclass(frozen=True)
class Weights:
    """What is written into the folder.

    Attributes:
        description: the content of `weights.json`.
        files: file name -> function that writes the file at a path.
        size: of all files in bytes.
        notes: what is unusual about the weights.
    """

    description: dict[str, str]
    files: dict[str, Callable[[Path], object]]
    size: int
    notes: Sequence[str] = ()


def main(cfg: DictConfig) -> Path:
    """Print what the weights are and how to train with them; return the folder.

    Nothing is downloaded if the library's cache has the weights.
    """
    choice, override = _read_choice(cfg)
    output = check_output(Path(cfg.output))
    check_fetched(output, DESCRIPTION, choice)
    if "pretrained" in choice:
        weights, key, head = _read_model(cfg.pretrained), "pretrained.weights", f"heads={cfg.pretrained.task} "
    else:
        weights, key, head = _read_backbone(cfg.backbone), "backbone.weights", ""
    check_free(output, weights.size, "write output=DIR with a folder of another disk")
    _write(output, {**choice, **weights.description}, weights.files)
    notes = [f"note: {note}" for note in weights.notes]
    print("\n".join([*(f"{name}: {text}" for name, text in weights.description.items()), *notes]))
    print(f"use them with: visiontune plan {override} {shell_override(key, output)} {head}data=OPTION data.root=DIR")
    print(output)
    return output


def _read_choice(cfg: DictConfig) -> tuple[dict[str, str], str]:
    """What to fetch, as `weights.json` has it, and the override that chooses it in `train`.

    Raises:
        UserError: the command line names no model, or has keys without an effect.
    """
    hydra = HydraConfig.get()
    overrides = {text.lstrip("+~").partition("=")[0]: text for text in hydra.overrides.task}
    has_backbone = any(key.split(".")[0] == "backbone" for key in overrides)
    if cfg.pretrained is None and not has_backbone:
        raise UserError(
            "fetch needs a model: write pretrained=fasterrcnn_mobilenet_v3_large_320_fpn, or backbone=resnet50 for the "
            "weights of a backbone"
        )
    if cfg.pretrained is None:
        keys = ["name"] if cfg.backbone.library == "auto" else ["name", "library"]
        override = " ".join(shell_override(f"backbone.{key}", cfg.backbone[key]) for key in keys)
        return {"backbone": cfg.backbone.name}, override
    option = str(hydra.runtime.choices["pretrained"])
    for key, text in overrides.items():
        if key not in ("pretrained", "output"):
            raise UserError(
                f"{text} has no effect with pretrained={option}, whose weights are written as they are; leave it out"
            )
    return {"pretrained": option}, shell_override("pretrained", option)


def _read_model(settings: DictConfig) -> Weights:
    """The weights of a whole model: copies of the library's files."""
    files, notes = LIBRARIES[settings.library](settings).fetch()
    description = {key: str(settings[key]) for key in ("library", "name", "source", "license", "dataset", "score")}
    copies = {file.name: partial(shutil.copyfile, file) for file in files}
    return Weights(description, {**copies}, sum(file.stat().st_size for file in files), notes)


def _read_backbone(settings: DictConfig) -> Weights:
    """The weights of a backbone, whose tensors have the names of its network.

    Raises:
        UserError: there are no weights, or they are not the library's.
    """
    name, library = settings.name, settings.library
    weights = resolve_weights(name, library, settings.weights)
    if weights is None:
        raise UserError(f"{name} has no pretrained weights: write a network that has some, such as backbone=resnet50")
    if weights != "default" and not weights.startswith("package:"):
        raise UserError(
            f"{shell_override('backbone.weights', weights)}: fetch writes the weights of the library; leave it out"
        )
    options: Any = OmegaConf.to_container(settings, resolve=True)
    backbone, report = build(**options)
    content = save({key: value.contiguous().clone() for key, value in backbone.model.state_dict().items()})
    description = {"library": backbone.library, "name": str(name), "source": report.source}
    return Weights(description, {f"{name}.safetensors": lambda path: path.write_bytes(content)}, len(content))


def _write(output: Path, description: dict[str, str], files: Mapping[str, Callable[[Path], object]]) -> None:
    """Write `weights.json` and the files, and then their checksums into it, so that a stopped command can run again."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / DESCRIPTION, description)
    sums = {}
    for name, write in files.items():
        with temporary_path(output / name) as temporary:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        sums[name] = sha256(output / name)
        print(f"{name}: {megabytes((output / name).stat().st_size)}, SHA-256 {sums[name]}")
    write_json(output / DESCRIPTION, {**description, "sha256": sums})
