"""Any timm network as a backbone: maps by `forward_intermediates`, stages by timm's own grouping of layers."""

import math
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.models import group_parameters
from torch import Tensor, nn

from visiontune.errors import UserError
from visiontune.models.backbones.backbone import Backbone
from visiontune.models.features import Features

MAX_STAGES = 12  # the blocks of a transformer are grouped into at most this many stages


class TimmBackbone(Backbone):
    """One map per stride (the last that timm lists for it); the embedding is timm's own ``pre_logits``.

    A network whose maps all have one stride (a ViT) has one map: its last token grid, normalised, ``(B, C, h, w)``.
    """

    library = "timm"

    @classmethod
    def names(cls) -> list[str]:
        return timm.list_models()

    @classmethod
    def knows(cls, name: str) -> bool:
        return timm.is_model(name)  # also names with a tag, and deprecated ones

    def __init__(
        self, name: str, in_channels: int = 3, image_size: tuple[int, int] | None = None, **options: Any
    ) -> None:
        """
        Args:
            image_size: (H, W) in pixels; used by networks whose position embeddings have a fixed size.
            options: passed to ``timm.create_model``, e.g. ``drop_path_rate=0.1``.

        Raises:
            UserError: an unknown tag of weights, an option or image size that the network refuses, or a network without
                maps or separate stages.
        """
        try:
            self._create_options = _create_options(name, image_size, options)
            model: Any = timm.create_model(
                name, pretrained=False, in_chans=in_channels, num_classes=0, **self._create_options
            )
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:  # RuntimeError: an unknown tag
            raise UserError(
                f"backbone.name={name} cannot be built for images of {image_size} with {options}: {error}"
            ) from error
        if not hasattr(model, "forward_intermediates"):
            raise UserError(f"backbone.name={name}: timm has no maps for it; write e.g. backbone.name=convnext_nano")
        info = list(model.feature_info)
        last_at_stride = {entry["reduction"]: i for i, entry in enumerate(info)}  # later entries overwrite
        indices = sorted(last_at_stride.values())
        cfg = model.pretrained_cfg
        super().__init__(
            model,
            _parts(model),
            name=name,
            channels=[info[i]["num_chs"] for i in indices],
            strides=[info[i]["reduction"] for i in indices],
            embedding_dim=model.head_hidden_size,
            in_channels=in_channels,
            mean=cfg["mean"],
            std=cfg["std"],
        )
        staged = [id(tensor) for _, stage in self.stages() for tensor in stage.parameters()]
        if len(staged) != len(set(staged)):
            raise UserError(
                f"backbone.name={name} shares layers between its stages, so that no stage can be frozen by itself; "
                "write e.g. backbone.name=convnext_nano"
            )
        self._indices = indices
        # EfficientNet computes its head after the last map, so the head can wait until the embedding is read.
        self._head_after_maps = isinstance(model, timm.models.EfficientNet)

    def features(self, x: Tensor) -> Features:
        model: Any = self.model
        norm = len(self._indices) == 1
        if self._head_after_maps:
            maps = model.forward_intermediates(x, indices=self._indices, intermediates_only=True)
            return Features(maps, lambda: self._embed(model.bn2(model.conv_head(maps[-1]))))
        final, maps = model.forward_intermediates(x, indices=self._indices, norm=norm)
        return Features(maps, lambda: self._embed(final))

    def _embed(self, final: Tensor) -> Tensor:
        model: Any = self.model
        return model.forward_head(final, pre_logits=True)

    def default_state(self, allow_download: bool) -> tuple[dict[str, Tensor] | None, str]:
        """timm's own weights for this name, with this network's keys and shapes."""
        model: Any = self.model
        cfg: dict[str, Any] = model.pretrained_cfg
        tag = f".{cfg['tag']}" if cfg.get("tag") else ""
        source = f"timm {cfg['architecture']}{tag}"
        if not any(cfg.get(key) for key in ("url", "file", "hf_hub_id", "state_dict")):
            raise UserError(
                f"backbone.weights=default: timm has no weights for {self.name}; write backbone.weights=null"
            )
        if not allow_download and not _is_local(cfg):
            return None, source
        # A second network of the same shape lets timm do its own conversions (position embeddings, old formats).
        donor = timm.create_model(self.name, pretrained=True, num_classes=cfg["num_classes"], **self._create_options)
        return donor.state_dict(), source


def _create_options(name: str, image_size: tuple[int, int] | None, options: dict[str, Any]) -> dict[str, Any]:
    cfg = timm.get_pretrained_cfg(name)
    if image_size and cfg is not None and cfg.fixed_input_size and "img_size" not in options:
        return {**options, "img_size": image_size}
    return dict(options)


def _is_local(cfg: dict[str, Any]) -> bool:
    if cfg.get("state_dict") or (cfg.get("file") and Path(cfg["file"]).is_file()):
        return True
    if repo := cfg.get("hf_hub_id"):
        named = cfg.get("hf_hub_filename")
        files = [named] if named else ["model.safetensors", "pytorch_model.bin"]
        return any(isinstance(try_to_load_from_cache(repo, file), str) for file in files)
    return (Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(cfg["url"]).path).name).is_file()


def _parts(model: nn.Module) -> dict[str, list[str]]:
    """Stage name -> paths, from timm's coarse grouping of the parameters."""
    groups: dict[str, int] = dict(group_parameters(model, _matcher(model), reverse=True))
    latest = 0
    for path, module in model.named_modules():
        prefix = path + "." if path else ""
        for name, _ in module.named_parameters(recurse=False):
            latest = groups.get(prefix + name, latest)  # a shared parameter is listed only under its first name
        for name, _ in module.named_buffers(recurse=False):
            groups[prefix + name] = latest  # buffers belong to the group of the parameters before them
    members: list[list[str]] = [[] for _ in range(max(groups.values()) + 1)]
    latest = 0
    for path, group in _whole_modules(model, groups, ""):
        # A module without tensors (dropout, activation) also has a mode: it belongs to the group before it.
        latest = latest if group is None else group
        members[latest].append(path)
    return _name_stages([paths for paths in members if paths])


def _matcher(model: Any) -> dict[str, Any] | Callable[[str], int]:
    """timm's coarse grouping; for the few networks without it, their children (``stem``, ``stages.0``) in order."""
    try:
        return model.group_matcher(coarse=True)
    except (AttributeError, AssertionError):
        child = re.compile(r"\w+(\.\d+)?\.")  # `stem.` or `stages.0.`
        owners = {name: match.group() for name, _ in model.named_parameters() if (match := child.match(name))}
        order = {owner: i for i, owner in enumerate(dict.fromkeys(owners.values()))}
        # Loose parameters (class token, position embedding) belong to the stem.
        return lambda name: order[owners[name]] if name in owners else 0


def _whole_modules(module: nn.Module, groups: dict[str, int], prefix: str) -> Iterator[tuple[str, int | None]]:
    """The largest modules whose tensors are all in one group, and all other parameters and buffers: path and group.

    The group of a module without tensors is None.
    """
    for name, _ in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
        yield prefix + name, groups[prefix + name]
    for name, child in module.named_children():
        path = prefix + name
        inside = {group for key, group in groups.items() if key.startswith(path + ".")}
        if len(inside) > 1:
            yield from _whole_modules(child, groups, path + ".")
        else:
            yield path, inside.pop() if inside else None


def _name_stages(members: list[list[str]]) -> dict[str, list[str]]:
    """Stages by name: the common prefix of their paths (``blocks_3``), ``stem`` for the first; about `MAX_STAGES`."""
    stem, *rest = members
    size = max(1, math.ceil(len(rest) / MAX_STAGES))
    parts = {"stem": stem}
    for first in range(0, len(rest), size):
        chunk = rest[first : first + size]
        name = _shared_name(chunk[0])
        if len(chunk) > 1:
            name += "_to_" + _shared_name(chunk[-1]).rpartition("_")[2]
        if name in parts:
            name += f"_{len(parts)}"
        parts[name] = list(chain.from_iterable(chunk))
    return parts


def _shared_name(paths: list[str]) -> str:
    shared = []
    for words in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    return "_".join(shared or paths[0].split("."))
