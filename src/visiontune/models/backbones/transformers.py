"""Backbones of the detectors of transformers: ResNet-vd of RT-DETR, HGNet v2 of D-FINE, DINOv2 of RF-DETR."""

from itertools import pairwise
from typing import Any

from torch import Tensor

from visiontune.errors import UserError, first_line
from visiontune.models.backbones.backbone import Backbone
from visiontune.models.backbones.norm_layers import set_norm
from visiontune.models.features import Features
from visiontune.models.transformers_library import check_arguments, import_transformers

# Name -> classes of the config and the network. The names are the library's `model_type`.
LIBRARY = {
    "rt_detr_resnet": ("RTDetrResNetConfig", "RTDetrResNetBackbone"),
    "hgnet_v2": ("HGNetV2Config", "HGNetV2Backbone"),
    "rf_detr_dinov2": ("RfDetrDinov2Config", "RfDetrDinov2Backbone"),
}
STRIDES = [4, 8, 16, 32]  # of the convolutional networks
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TransformersBackbone(Backbone):
    """A network of transformers. The embedding is the mean of the last map.

    The convolutional networks take images of any size, in 0..1 without other normalisation. The vision transformer
    takes square images, normalised with the statistics of ImageNet, and has maps of one stride, by default four.
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
        pretraining_size: int | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            image_size: (H, W) in pixels, to refuse images that do not suit a vision transformer.
            norm: "batch" (None) or "frozen": BatchNorm whose statistics and weights are fixed.
            pretraining_size: side in pixels of the images of the pretraining, which decides the number of position
                embeddings of a vision transformer.
            options: arguments of the network's config in transformers, such as ``depths=[2, 2, 2, 2]``.

        Raises:
            UserError: transformers is missing, a wrong option, or images of an unsuitable size.
        """
        library = import_transformers(f"backbone.name={name}")
        config_name, network_name = LIBRARY[name]
        make_config = getattr(library, config_name)
        check_arguments(options, make_config().to_dict(), "backbone", f"{config_name} of transformers")
        transformer = name == "rf_detr_dinov2"
        depth = options.get("num_hidden_layers", make_config().num_hidden_layers) if transformer else 4
        maps = sorted({max(1, depth * quarter // 4) for quarter in range(1, 5)})  # of a transformer, after each quarter
        values = {"out_indices": maps, **options, "num_channels": in_channels}
        if transformer and pretraining_size is not None:
            values["image_size"] = pretraining_size
        try:
            network = getattr(library, network_name)(make_config(**values))
        except Exception as error:  # the library's checks raise errors of many types
            raise UserError(
                f"backbone.name={name} cannot be built with {options}: {first_line(error)[:200]}"
            ) from error
        set_norm(network, name, norm, norm_eps)
        config, mean, std = network.config, *(IMAGENET if transformer else ((0.0,) * 3, (1.0,) * 3))
        if transformer:
            _check_size(name, image_size, config.patch_size * config.num_windows)
        super().__init__(
            network,
            _blocks(network) if transformer else _stages(),
            name=name,
            channels=network.channels,
            strides=[config.patch_size] * len(network.channels) if transformer else STRIDES,
            embedding_dim=network.channels[-1],
            in_channels=in_channels,
            mean=mean,
            std=std,
        )

    def features(self, x: Tensor) -> Features:
        maps = list(self.model(x).feature_maps)
        return Features(maps, lambda: maps[-1].mean((2, 3)))


def _stages() -> dict[str, list[str]]:
    return {"stem": ["embedder"], **{f"stage_{i}": [f"encoder.stages.{i}"] for i in range(len(STRIDES))}}


def _blocks(network: Any) -> dict[str, list[str]]:
    """The blocks up to each map are a stage. The norm, which each map has, belongs to the last stage."""
    ends = [0, *network.config.out_indices[:-1], len(network.encoder.layer)]
    stages = {
        f"blocks_{first}_to_{last - 1}": [f"encoder.layer.{i}" for i in range(first, last)]
        for first, last in pairwise(ends)
    }
    *_, end = stages.values()
    end.append("layernorm")
    return {"stem": ["embeddings"], **stages}


def _check_size(name: str, image_size: tuple[int, int] | None, multiple: int) -> None:
    if image_size and (image_size[0] != image_size[1] or image_size[0] % multiple):
        side = multiple * max(1, round(image_size[0] / multiple))
        raise UserError(
            f"data.image_size={list(image_size)}: backbone.name={name} needs square images whose side is a multiple of "
            f"{multiple}; write data.image_size={side}"
        )
