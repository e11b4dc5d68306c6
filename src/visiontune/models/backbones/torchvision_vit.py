"""torchvision's vision transformers as backbones, for image sizes that are multiples of their patches."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from visiontune.errors import UserError
from visiontune.models.backbones.backbone import Backbone
from visiontune.models.backbones.torchvision import adapt_input, build_network, default_state, statistics
from visiontune.models.features import Features

MAX_STAGES = 12


class VisionTransformerBackbone(Backbone):
    """One map: the last token grid, normalised, ``(B, D, H/patch, W/patch)``; the embedding is the class token.

    The size of the images is fixed at construction, because the position embeddings are.
    """

    library = "torchvision"

    @classmethod
    def names(cls) -> list[str]:
        return [name for name in models.list_models(module=models) if name.startswith("vit_")]

    def __init__(
        self, name: str, in_channels: int = 3, image_size: tuple[int, int] | None = None, **options: Any
    ) -> None:
        """
        Args:
            image_size: (H, W) in pixels, multiples of the patch; by default 224 x 224.
            options: passed to the torchvision builder, e.g. ``dropout=0.1``.

        Raises:
            UserError: an image size that the patches do not divide, or an option that the network does not know.
        """
        network: Any = build_network(name, options)
        patch = int(network.patch_size)
        height, width = image_size or (224, 224)
        if height % patch or width % patch:
            nearest = ",".join(str(max(patch, round(side / patch) * patch)) for side in (height, width))
            raise UserError(
                f"data.image_size={height}x{width} is no multiple of the {patch}-pixel patches of {name}; "
                f"write e.g. data.image_size=[{nearest}]"
            )
        dim = int(network.hidden_dim)
        network.heads = nn.Identity()
        network.position_grid = (height // patch, width // patch)
        tokens = 1 + math.prod(network.position_grid)
        if network.encoder.pos_embedding.shape[1] != tokens:
            network.encoder.pos_embedding = nn.Parameter(torch.empty(1, tokens, dim).normal_(std=0.02))
        adapt_input(network, in_channels)
        mean, std = statistics(name)
        super().__init__(
            network,
            _parts(network),
            name=name,
            channels=[dim],
            strides=[patch],
            embedding_dim=dim,
            in_channels=in_channels,
            mean=mean,
            std=std,
        )

    def features(self, x: Tensor) -> Features:
        network: Any = self.model
        grid = network.conv_proj(x)
        if tuple(grid.shape[2:]) != network.position_grid:
            patch = self.strides[0]
            height, width = (side * patch for side in network.position_grid)
            raise ValueError(f"{self.name} was built for images of {height}x{width}, got {x.shape[2]}x{x.shape[3]}")
        tokens = grid.flatten(2).transpose(1, 2)
        tokens = torch.cat([network.class_token.expand(x.shape[0], -1, -1), tokens], dim=1)
        tokens = network.encoder(tokens)  # adds the position embedding, ends with the norm
        return Features([tokens[:, 1:].transpose(1, 2).reshape(grid.shape)], lambda: tokens[:, 0])

    def default_state(self, allow_download: bool) -> tuple[dict[str, Tensor] | None, str]:
        return default_state(self.name, allow_download)


def _parts(network: Any) -> dict[str, list[str]]:
    layers = list(network.encoder.layers._modules)
    size = math.ceil(len(layers) / MAX_STAGES)
    parts = {"stem": ["conv_proj", "class_token", "encoder.pos_embedding", "encoder.dropout"]}
    for first in range(0, len(layers), size):
        chunk = layers[first : first + size]
        name = f"blocks_{first}" + (f"_to_{first + len(chunk) - 1}" if len(chunk) > 1 else "")
        parts[name] = [f"encoder.layers.{layer}" for layer in chunk]
    return {**parts, "norm": ["encoder.ln"]}
