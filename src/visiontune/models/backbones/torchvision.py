"""torchvision's convolutional networks and Swin transformers as backbones."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision import models

from visiontune.errors import UserError, some
from visiontune.models.backbones.backbone import Backbone
from visiontune.models.backbones.norm_layers import set_norm
from visiontune.models.backbones.torchvision_families import Anatomy, family
from visiontune.models.features import Features

PROBE_SIZE = 96  # pixels; a size that every family accepts
STRIDE_PROBE_SIZE = 256  # pixels; large enough to measure strides also of convolutions without padding


class TorchvisionBackbone(Backbone):
    """A convolutional (or Swin) network of torchvision, for images of any size."""

    library = "torchvision"

    @classmethod
    def names(cls) -> list[str]:
        return [name for name in models.list_models(module=models) if family(name)]

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        image_size: tuple[int, int] | None = None,
        return_layers: list[str] | None = None,
        norm: str | None = None,
        norm_eps: float | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            image_size: (H, W) in pixels, to refuse images that are too small for the network.
            return_layers: the modules whose outputs are the maps, e.g. ``["features.4", "features.16"]``; None for the
                last one of each stage.
            norm: "batch" (None) or "frozen": BatchNorm whose statistics and weights are fixed, with the same keys in
                the state dict.
            norm_eps: of BatchNorm; None = the network's.
            options: passed to the torchvision builder, e.g. ``stochastic_depth_prob=0.1``.

        Raises:
            UserError: an option or a layer that the network does not have, or images too small for it.
        """
        network = build_network(name, options)
        build_anatomy = family(name)
        assert build_anatomy is not None, name
        anatomy = build_anatomy(network)
        set_norm(network, name, norm, norm_eps)
        adapt_input(network, in_channels)
        mean, std = statistics(name)
        super().__init__(
            network,
            {**anatomy.trunk, **anatomy.neck},
            name=name,
            channels=[],
            strides=anatomy.strides,
            embedding_dim=anatomy.embedding_dim,
            in_channels=in_channels,
            mean=mean,
            std=std,
        )
        self._anatomy = anatomy
        self._maps = anatomy.map_paths if return_layers is None else _check_layers(name, anatomy, return_layers)
        self._depth = anatomy.paths.index(self._maps[-1]) + 1  # number of modules that the maps need
        if return_layers is None:
            maps = self._probe(min(PROBE_SIZE, *(image_size or (PROBE_SIZE, PROBE_SIZE))))
        else:
            maps = self._probe(STRIDE_PROBE_SIZE)
            self.strides = [2 ** round(math.log2(STRIDE_PROBE_SIZE / feature_map.shape[2])) for feature_map in maps]
        self.channels = [feature_map.shape[1] for feature_map in maps]

    def features(self, x: Tensor) -> Features:
        maps = []
        for path in self._anatomy.paths[: self._depth]:
            x = self.model.get_submodule(path)(x)
            if path in self._maps:
                maps.append(self._channels_first(x))
        return Features(maps, partial(self._embed, x))

    def _embed(self, x: Tensor) -> Tensor:
        """The embedding, from the output of the last module that the maps need."""
        for path in self._anatomy.paths[self._depth :]:
            x = self.model.get_submodule(path)(x)
        return self._anatomy.embed(self.model, self._channels_first(x))

    def _channels_first(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2) if self._anatomy.channels_last else x

    def default_state(self, allow_download: bool) -> tuple[dict[str, Tensor] | None, str]:
        return default_state(self.name, allow_download)

    def _probe(self, side: int) -> list[Tensor]:
        """The maps of one square image."""
        training = self.training
        try:
            with torch.no_grad():
                maps = self.eval()(torch.zeros(1, self.in_channels, side, side)).maps
        except RuntimeError as error:
            raise UserError(
                f"data.image_size={side} is too small for {self.name}; write e.g. data.image_size={PROBE_SIZE}"
            ) from error
        self.train(training)
        return maps


def _check_layers(name: str, anatomy: Anatomy, layers: Sequence[str]) -> list[str]:
    """The layers in the order of their calls."""
    paths = anatomy.paths
    wrong = [layer for layer in layers if layer not in paths]
    if wrong or not layers:
        raise UserError(
            f"backbone.return_layers={wrong or list(layers)}: expected some of the layers {some(paths, 40)} of {name}; "
            f"write e.g. backbone.return_layers=[{paths[-1]}]"
        )
    return [path for path in paths if path in layers]


def build_network(name: str, options: dict[str, Any]) -> nn.Module:
    """torchvision's network with random weights, classifier included."""
    if name == "inception_v3":
        # No auxiliary classifier; the backbone normalises images, so the network must not do it again.
        options = {"aux_logits": False, "transform_input": False, "init_weights": True, **options}
    try:
        return models.get_model(name, weights=None, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"backbone.name={name} cannot be built with {options}: {error}") from error


def adapt_input(network: nn.Module, in_channels: int) -> None:
    """Replace the first convolution by one for `in_channels` channels, with torch's default initialisation."""
    if in_channels == 3:
        return
    path, conv = next((path, m) for path, m in network.named_modules() if isinstance(m, nn.Conv2d))
    fresh = nn.Conv2d(
        in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    owner, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(owner), leaf, fresh)


def statistics(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std (0..1) of the network's pretraining images."""
    if name == "inception_v3":
        # Its published transforms use ImageNet's statistics, and its `transform_input` converts the result to these.
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    return transforms.mean, transforms.std


def default_state(name: str, allow_download: bool) -> tuple[dict[str, Tensor] | None, str]:
    """torchvision's own weights for this name, as `Backbone.default_state`."""
    weights = models.get_model_weights(name).DEFAULT
    source = f"torchvision {weights}"
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    if not allow_download and not cached.is_file():
        return None, source
    return weights.get_state_dict(progress=True, check_hash=True), source
