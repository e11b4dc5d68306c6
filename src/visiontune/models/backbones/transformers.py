"""Backbones of the detectors of Hugging Face transformers: ResNet-vd of RT-DETR, and HGNet v2 of D-FINE."""

from typing import Any

from torch import Tensor

from visiontune.errors import UserError, first_line
from visiontune.models.backbones.backbone import Backbone
from visiontune.models.backbones.norm_layers import set_norm
from visiontune.models.features import Features
from visiontune.models.transformers_library import import_transformers

# Name -> classes of the config and the network. The names are the library's `model_type`.
LIBRARY = {
    "rt_detr_resnet": ("RTDetrResNetConfig", "RTDetrResNetBackbone"),
    "hgnet_v2": ("HGNetV2Config", "HGNetV2Backbone"),
}
STRIDES = [4, 8, 16, 32]


class TransformersBackbone(Backbone):
    """A convolutional network of transformers, for images of any size, in 0..1 without other normalisation.

    The embedding is the mean of the last map.
    """

    library = "transformers"
    auto_weights = None

    @classmethod
    def names(cls) -> list[str]:
        return list(LIBRARY)

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        image_size: tuple[int, int] | None = None,
        norm: str | None = None,
        norm_eps: float | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            norm: "batch" (None) or "frozen": BatchNorm whose statistics and weights are fixed.
            options: arguments of the network's config in transformers, such as ``depths=[2, 2, 2, 2]``.

        Raises:
            UserError: transformers is missing, or a wrong option.
        """
        library = import_transformers(f"backbone.name={name}")
        config_name, network_name = LIBRARY[name]
        make_config = getattr(library, config_name)
        if unknown := [option for option in options if option not in make_config().to_dict()]:
            raise UserError(f"backbone.{unknown[0]}: {config_name} of transformers has no such argument")
        try:
            config = make_config(**options, num_channels=in_channels, out_indices=[1, 2, 3, 4])
            network = getattr(library, network_name)(config)
        except Exception as error:  # the library's checks raise errors of many types
            raise UserError(
                f"backbone.name={name} cannot be built with {options}: {first_line(error)[:200]}"
            ) from error
        set_norm(network, name, norm, norm_eps)
        stages = {f"stage_{i}": [f"encoder.stages.{i}"] for i in range(len(STRIDES))}
        super().__init__(
            network,
            {"stem": ["embedder"], **stages},
            name=name,
            channels=network.channels,
            strides=STRIDES,
            embedding_dim=network.channels[-1],
            in_channels=in_channels,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        )

    def features(self, x: Tensor) -> Features:
        maps = list(self.model(x).feature_maps)
        return Features(maps, lambda: maps[-1].mean((2, 3)))
