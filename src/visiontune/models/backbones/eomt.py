"""The first blocks of EoMT of Hugging Face transformers, a DINOv2 vision transformer."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from visiontune.errors import UserError, first_line
from visiontune.models.backbones.backbone import Backbone
from visiontune.models.features import Features
from visiontune.models.transformers_library import check_arguments, import_transformers

MAX_STAGES = 12
FIXED = ("image_size", "num_channels", "num_blocks", "num_queries", "num_upscale_blocks", "num_labels")


class FirstBlocks(nn.Module):
    """Embeddings and blocks of the library, under its names.

    Attributes:
        position_grid: rows and columns of the position embeddings.
    """

    def __init__(self, embeddings: nn.Module, layers: nn.ModuleList, position_grid: tuple[int, int]) -> None:
        super().__init__()
        self.embeddings, self.layers, self.position_grid = embeddings, layers, position_grid

    def forward(self, image: Tensor) -> Tensor:
        """All tokens ``(B, prefix + patches, D)``."""
        tokens = self.embeddings(image)
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


class EomtBackbone(Backbone):
    """The blocks of EoMT (Kerssies et al. 2025, https://arxiv.org/abs/2503.19108) that see no queries.

    The blocks after them belong to the head, see `EomtDecoder`. One map: the tokens of the patches, without a norm. The
    embedding is the class token. The size of the images is fixed at construction, because the position embeddings are.
    """

    library = "transformers"
    auto_weights = None

    @classmethod
    def names(cls) -> list[str]:
        return ["eomt"]

    def __init__(
        self, name: str, in_channels: int = 3, image_size: tuple[int, int] | None = None, **options: Any
    ) -> None:
        """
        Args:
            image_size: (H, W) in pixels, multiples of the patch; by default 640 x 640.
            options: arguments of `EomtConfig` of transformers; ``num_hidden_layers`` counts only these blocks.

        Raises:
            UserError: transformers is missing, a wrong option, or an image size that the patches do not divide.
        """
        library = import_transformers(f"backbone.name={name}")
        known = library.EomtConfig().to_dict().keys() - FIXED
        check_arguments(options, known, "backbone", f"backbone.name={name}")
        height, width = image_size or (640, 640)
        try:
            config = library.EomtConfig(
                **options, num_channels=in_channels, num_blocks=1, num_queries=1, num_upscale_blocks=0, num_labels=1
            )
            patch = config.image_size = int(config.patch_size)  # the library's grids are square; it is replaced below
            model = library.EomtForUniversalSegmentation(config)
        except Exception as error:  # the library's checks raise errors of many types
            raise UserError(
                f"backbone.name={name} cannot be built with {options}: {first_line(error)[:200]}"
            ) from error
        if height % patch or width % patch:
            nearest = ",".join(str(max(patch, round(side / patch) * patch)) for side in (height, width))
            raise UserError(
                f"data.image_size={height}x{width} is no multiple of the {patch}-pixel patches of {name}; write e.g. "
                f"data.image_size=[{nearest}]"
            )
        grid = (height // patch, width // patch)
        embeddings = model.embeddings
        embeddings.position_embeddings = nn.Embedding(math.prod(grid), config.hidden_size)
        embeddings.register_buffer("position_ids", torch.arange(math.prod(grid))[None], persistent=False)
        prefix_tokens = embeddings.num_prefix_tokens
        super().__init__(
            FirstBlocks(embeddings, model.layers, grid),
            _parts(len(model.layers)),
            name=name,
            channels=[config.hidden_size],
            strides=[patch],
            embedding_dim=config.hidden_size,
            in_channels=in_channels,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )
        self.prefix_tokens = prefix_tokens

    def features(self, x: Tensor) -> Features:
        network: Any = self.model
        height, width = (side * self.strides[0] for side in network.position_grid)
        if tuple(x.shape[2:]) != (height, width):
            raise UserError(
                f"{self.name} was built for images of {height}x{width} pixels, got {x.shape[2]}x{x.shape[3]}; write "
                f"data.image_size=[{x.shape[2]},{x.shape[3]}] to build it for them"
            )
        tokens = network(x)
        prefix, patches = tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens :]
        grid = patches.transpose(1, 2).reshape(x.shape[0], -1, *network.position_grid)
        features = Features([grid], lambda: tokens[:, 0])
        features.prefix = prefix
        return features


def _parts(layers: int) -> dict[str, list[str]]:
    size = math.ceil(layers / MAX_STAGES)
    parts = {"stem": ["embeddings"]}
    for first in range(0, layers, size):
        last = min(first + size, layers) - 1
        name = f"blocks_{first}" + (f"_to_{last}" if last > first else "")
        parts[name] = [f"layers.{layer}" for layer in range(first, last + 1)]
    return parts
