"""A small CNN for digits and other small images, trained from scratch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from visiontune.errors import UserError
from visiontune.models.backbones.backbone import Backbone
from visiontune.models.features import Features

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
POOLS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
NORMS = ("batch", "group", "none")
# He et al. 2015 for the Kaiming pair, Glorot and Bengio 2010 for Xavier, Saxe et al. 2013 for orthogonal.
INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "kaiming_normal": partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"),
    "kaiming_uniform": partial(nn.init.kaiming_uniform_, mode="fan_out", nonlinearity="relu"),
    "xavier_uniform": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
}


class SmallCNN(Backbone):
    """Blocks of ``depth`` layers (convolution, normalisation, activation), then a pooling that halves the image.

    Block i gives a map with ``widths[i]`` channels and stride ``2 ** (i + 1)``; the embedding is the mean of the last
    map.
    """

    library = "small_cnn"
    auto_weights = None  # random: it has no pretrained weights

    @classmethod
    def names(cls) -> list[str]:
        return ["small_cnn"]

    def __init__(
        self,
        name: str = "small_cnn",
        in_channels: int = 3,
        image_size: tuple[int, int] | None = None,
        widths: Sequence[int] = (32, 64, 128),
        depth: int = 2,
        norm: str = "batch",
        pool: str = "max",
        activation: str = "relu",
        init: str = "kaiming_normal",
        **unknown: Any,
    ) -> None:
        """
        Args:
            image_size: not used; images of any size fit.
            widths: channels of each block.
            depth: convolutions of each block.
            norm: ``batch``, ``group`` (8 groups, or fewer that divide the width) or ``none`` (the convolutions then
                have a bias).
            pool, activation, init: keys of `POOLS`, `ACTIVATIONS` and `INITS`.

        Raises:
            UserError: an unknown option or value.
        """
        if unknown:
            raise UserError(
                f"backbone.{next(iter(unknown))}: unknown key for small_cnn; write one of widths, depth, norm, "
                "pool, activation, init"
            )
        for option, value, valid in (
            ("norm", norm, NORMS),
            ("pool", pool, POOLS),
            ("activation", activation, ACTIVATIONS),
            ("init", init, INITS),
        ):
            if value not in valid:
                raise UserError(
                    f"backbone.{option}={value} is not one of {', '.join(valid)}; "
                    f"write e.g. backbone.{option}={next(iter(valid))}"
                )
        if not _are_counts([depth]) or not _are_counts(widths):
            raise UserError(
                f"backbone.widths={widths} backbone.depth={depth}: expected a list of whole numbers and a whole "
                "number, 1 or more; write e.g. backbone.widths=[32,64,128] backbone.depth=2"
            )

        network = nn.Sequential()
        width_in = in_channels
        for i, width in enumerate(widths, start=1):
            block = nn.Sequential()
            for j in range(1, depth + 1):
                block.add_module(f"conv{j}", nn.Conv2d(width_in, width, 3, padding=1, bias=norm == "none"))
                if norm != "none":
                    block.add_module(f"norm{j}", _build_norm(norm, width))
                block.add_module(f"act{j}", ACTIVATIONS[activation]())
                width_in = width
            block.add_module("pool", POOLS[pool](2))
            network.add_module(f"block{i}", block)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                INITS[init](module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

        super().__init__(
            network,
            {name: [name] for name, _ in network.named_children()},
            name=name,
            channels=list(widths),
            strides=[2**i for i in range(1, len(widths) + 1)],
            embedding_dim=widths[-1],
            in_channels=in_channels,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        )

    def features(self, x: Tensor) -> Features:
        maps = []
        for block in self.model.children():
            x = block(x)
            maps.append(x)
        return Features(maps, lambda: maps[-1].mean(dim=(2, 3)))


def _are_counts(values: Any) -> bool:
    """Whether these are whole numbers of 1 or more, and at least one."""
    return isinstance(values, list | tuple) and bool(values) and all(type(v) is int and v >= 1 for v in values)


def _build_norm(kind: str, width: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(width)
    groups = next(g for g in range(min(8, width), 0, -1) if width % g == 0)
    return nn.GroupNorm(groups, width)
