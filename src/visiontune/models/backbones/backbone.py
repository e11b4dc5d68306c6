"""The base class of all backbones: normalisation, a library's network, ordered stages, maps and an embedding."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape


class Stage(nn.Module):
    """References to parts of a network, which freezing, counting and grouping treat as one module.

    It is built on demand and never registered on the backbone, so the state dict keeps the library's own keys.
    """

    def __init__(self, network: nn.Module, paths: Sequence[str]) -> None:
        super().__init__()
        self.paths = list(paths)
        for path in paths:
            owner, _, leaf = path.rpartition(".")
            part = getattr(network.get_submodule(owner), leaf)
            name = path.replace(".", "_")  # a module's name may not hold a dot
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            elif isinstance(part, nn.Parameter):
                self.register_parameter(name, part)
            else:
                self.register_buffer(name, part)


class Backbone(nn.Module, ABC):
    """A network without its classifier: ``(B, C, H, W)`` in 0..1 -> `Features`.

    A subclass builds the networks that `names` lists, as ``Subclass(name, in_channels, image_size, **options)``.

    Attributes:
        library: the value of ``backbone.library`` that selects this class.
        auto_weights: the meaning of ``backbone.weights=auto``, unless a Python package has the weights.
        name: the network's name in its library.
        channels: channels of each feature map, coarsest map last.
        strides: nominal stride of each feature map; a map is about ``(H / stride, W / stride)``.
        embedding_dim: D of the ``(B, D)`` embedding, the input of the pretrained classifier.
        in_channels: channels of the images.
        prefix_tokens: number of tokens in `Features.prefix`.
        model: the library's network; its state dict keys are the library's own.
    """

    library: ClassVar[str]
    auto_weights: ClassVar[str | None] = "default"
    prefix_tokens = 0
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        parts: dict[str, list[str]],
        *,
        name: str,
        channels: Sequence[int],
        strides: Sequence[int],
        embedding_dim: int,
        in_channels: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        """
        Args:
            parts: stage name -> paths of modules (or loose parameters) in `model`, from input to output; disjoint, and
                together every parameter and buffer.
            mean, std: of the pretraining images, per RGB channel in 0..1. They are averaged for one channel, and
                repeated cyclically for any other number of channels.
        """
        super().__init__()
        self.model = model
        self.name = name
        self.channels = list(channels)
        self.strides = list(strides)
        self.embedding_dim = embedding_dim
        self.in_channels = in_channels
        self._parts = parts
        self.register_buffer("mean", _per_channel(mean, in_channels))
        self.register_buffer("std", _per_channel(std, in_channels))

    def forward(self, image: Tensor) -> Features:
        features = self.features((image - self.mean) / self.std)
        features.size = (image.shape[-2], image.shape[-1])
        features.image = image
        return features

    @property
    def shape(self) -> FeatureShape:
        return FeatureShape(self.channels, self.strides, self.embedding_dim, self.in_channels, self.prefix_tokens)

    @classmethod
    @abstractmethod
    def names(cls) -> list[str]:
        """Names of the networks that this class builds."""

    @classmethod
    def knows(cls, name: str) -> bool:
        """Whether this class builds the network `name`."""
        return name in cls.names()

    def default_state(self, allow_download: bool) -> tuple[dict[str, Tensor] | None, str]:
        """The library's own weights (None if a download is needed but not allowed), and their source in words.

        Raises:
            UserError: the library has no weights for this network.
        """
        raise UserError(f"backbone.weights=default: {self.name} has no pretrained weights; write backbone.weights=null")

    @abstractmethod
    def features(self, x: Tensor) -> Features:
        """Maps and embedding of normalised images."""

    def stages(self) -> list[tuple[str, nn.Module]]:
        """Stages from input to output: disjoint, together all parameters and buffers except the mean and std."""
        return [(name, Stage(self.model, paths)) for name, paths in self._parts.items()]


def _per_channel(values: Sequence[float], in_channels: int) -> Tensor:
    rgb = list(values)
    channels = [sum(rgb) / len(rgb)] if in_channels == 1 else [rgb[i % len(rgb)] for i in range(in_channels)]
    return torch.tensor(channels, dtype=torch.float32).view(1, in_channels, 1, 1)
