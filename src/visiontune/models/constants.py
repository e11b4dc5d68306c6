"""Parameters that a library excludes from training."""

from torch import Tensor, nn


def turn_constants_into_buffers(module: nn.Module) -> None:
    """Replace each parameter that requires no gradient by a buffer of the same name, in place.

    Libraries build constants this way, such as the scale of D-FINE's boxes and fixed position embeddings. As
    parameters, they would train from the first unfreezing on, and DDP would not synchronise them.
    """
    buffers: dict[int, Tensor] = {}  # of each parameter; modules may share one
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False, remove_duplicate=False)):
            if not parameter.requires_grad:
                delattr(part, name)
                part.register_buffer(name, buffers.setdefault(id(parameter), parameter.data))
