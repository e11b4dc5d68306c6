"""BatchNorm of a network: trained or frozen, and its epsilon."""

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from visiontune.errors import UserError


def set_norm(network: nn.Module, name: str, norm: str | None, eps: float | None) -> None:
    """Freeze every BatchNorm in place for ``norm="frozen"``, and set its epsilon.

    torchvision's `FrozenBatchNorm2d` has the same keys in the state dict, all of them buffers: neither its statistics
    nor its weights change in training.

    Args:
        name: of the network, for messages.
        norm: "batch", "frozen" or None, which is "batch".
        eps: None keeps the network's.

    Raises:
        UserError: another norm, or a network without BatchNorm.
    """
    if norm not in (None, "batch", "frozen"):
        raise UserError(f"backbone.norm={norm}: write batch or frozen")
    if norm is None and eps is None:
        return
    layers = [
        (owner, key, layer)
        for owner in network.modules()
        for key, layer in owner.named_children()
        if isinstance(layer, nn.BatchNorm2d)
    ]
    if not layers:
        raise UserError(f"backbone.norm and backbone.norm_eps: {name} has no BatchNorm; write null for both")
    for owner, key, layer in layers:
        layer.eps = layer.eps if eps is None else eps
        if norm == "frozen":
            setattr(owner, key, _freeze(layer))


def _freeze(layer: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    frozen = FrozenBatchNorm2d(layer.num_features, layer.eps)
    frozen.load_state_dict(layer.state_dict())
    return frozen
