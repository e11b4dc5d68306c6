"""A pruned network: the library's network with fewer channels, as `backbone.shapes` of the run's config lists them."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from visiontune.errors import UserError
from visiontune.models.backbones.backbone import Backbone


def list_shapes(model: nn.Module) -> dict[str, str]:
    """``{path: "24x3x3x3"}`` for the weight of every module, and for every parameter of a module without a weight.

    Biases and running statistics are not listed: they are as long as the weight of their module.
    """
    shapes = {}
    for path, module in model.named_modules():
        parameters = dict(module.named_parameters(recurse=False))
        if "weight" in parameters:
            shapes[path] = _shape_text(parameters["weight"])
        else:
            shapes |= {f"{path}.{name}".lstrip("."): _shape_text(parameter) for name, parameter in parameters.items()}
    return shapes


def narrow(backbone: Backbone, shapes: Mapping[str, str], image_size: tuple[int, ...] | None) -> None:
    """Cut weights in place to `shapes`: the entries of `list_shapes` that differ from the library's network.

    The first channels remain. The backbone's `channels` and `embedding_dim` are measured again.

    Raises:
        UserError: the shapes belong to another network.
    """
    if not isinstance(shapes, Mapping):
        raise UserError(
            f"backbone.shapes={shapes}: expected a mapping of layers to shapes, such as {{conv1: 24x3x3x3}}"
        )
    for path, text in shapes.items():
        if not re.fullmatch(r"\d{1,7}(x\d{1,7})*", str(text)):
            raise UserError(f"backbone.shapes has {path}: {text}: expected a shape such as 24x3x3x3")
        shape = tuple(int(side) for side in text.split("x"))
        owner, _, leaf = path.rpartition(".")
        try:
            part = getattr(backbone.model.get_submodule(owner), leaf)
            before = (part if isinstance(part, Tensor) else part.weight).shape
        except AttributeError:
            before = torch.Size()
        if len(before) != len(shape) or any(new > old for new, old in zip(shape, before, strict=True)):
            raise UserError(
                f"backbone.shapes has {path}: {text}, and {backbone.name} has {'x'.join(map(str, before)) or 'none'} "
                "there: the shapes belong to another network; write the backbone.name that was pruned, or "
                "backbone.shapes=null"
            )
        if isinstance(part, Tensor):
            setattr(backbone.model.get_submodule(owner), leaf, _cut(part, shape))
        else:
            _narrow_module(part, shape)
    _measure(backbone, image_size or (224, 224))


def _narrow_module(module: Any, shape: tuple[int, ...]) -> None:
    width = len(module.weight)
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if name == "weight":
            setattr(module, name, _cut(tensor, shape))
        elif tensor.shape == (width,):  # bias, running mean and variance
            setattr(module, name, _cut(tensor, shape[:1]))
    if isinstance(module, nn.Conv2d):
        depthwise = 1 < module.groups == module.out_channels
        module.groups = shape[0] if depthwise else module.groups
        module.in_channels, module.out_channels = shape[1] * module.groups, shape[0]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, _BatchNorm):
        module.num_features = shape[0]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = shape
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = shape[0]


def _cut(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    part = tensor.detach()[tuple(slice(side) for side in shape)].clone()
    return nn.Parameter(part, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part


@torch.no_grad()
def _measure(backbone: Backbone, size: tuple[int, ...]) -> None:
    training = backbone.training
    features = backbone.eval()(torch.zeros(1, backbone.in_channels, *size))
    backbone.train(training)
    backbone.channels = [feature_map.shape[1] for feature_map in features.maps]
    backbone.embedding_dim = features.embedding.shape[1]


def _shape_text(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape)
