"""Skip the first stages of a network: record the outputs of their modules once and return them in later passes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

IMAGE = "image"  # in place of a module's path: the image itself, if a head reads it


@dataclass
class FrozenOutputs:
    """The outputs that replace the first stages in one batch.

    Attributes:
        values: path of a module -> its output ``(B, ...)``, for the modules whose output later modules read.
        shapes: path -> shape of one sample's output, for all modules of the stages.
    """

    values: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ReplayPlan:
    """How to skip the first stages.

    Attributes:
        paths: the modules whose outputs must be recorded, and `IMAGE` if later modules read the image as well.
        shapes: see `FrozenOutputs`.
    """

    paths: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]


def plan_replay(
    forward: Callable[[Tensor], Any],
    network: nn.Module,
    paths: Sequence[str],
    image: Tensor,
    trained: Sequence[nn.Parameter] = (),
) -> ReplayPlan | None:
    """Find the outputs that replace the modules at `paths` exactly; None if there are none.

    It does not assume how the network calls its modules: the result depends on those outputs that get a gradient. A
    last pass checks that the replayed result is equal, bit for bit.

    Args:
        forward: image -> any nest of tensors, through the whole `network`, in evaluation mode.
        paths: modules of `network`.
        image: a few samples ``(B, C, H, W)``.
        trained: parameters that change between recording and replay. A module whose output depends on one of them is
            not replaced.
    """
    with torch.enable_grad(), _require_grad_only(trained, network):
        recorded = record_outputs(forward, network, paths, image, full_pass=True)
    leaves = {path: value.requires_grad_() for path, value in recorded.items() if value.is_floating_point()}
    if not leaves:
        return None
    leaves[IMAGE] = image.clone().requires_grad_()
    with torch.enable_grad(), _return_outputs(network, {**recorded, **leaves}):
        results = [tensor for tensor in tensors(forward(leaves[IMAGE])) if tensor.requires_grad]
        total = torch.stack([tensor.float().sum() for tensor in results]).sum()
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    needed = tuple(path for path, gradient in zip(leaves, gradients, strict=True) if gradient is not None)
    if not {*needed} - {IMAGE}:
        return None
    with torch.no_grad():
        unused = {path: torch.full_like(value, torch.nan) for path, value in recorded.items() if path not in needed}
        with _return_outputs(network, {**recorded, **unused}):
            replayed = tensors(forward(image if IMAGE in needed else torch.full_like(image, torch.nan)))
        equal = all(torch.equal(*pair) for pair in zip(tensors(forward(image)), replayed, strict=True))
    return ReplayPlan(needed, {path: tuple(value.shape[1:]) for path, value in recorded.items()}) if equal else None


class _AllRecorded(Exception):
    """Ends a pass early, since the rest of it is not needed."""


def record_outputs(
    forward: Callable[[Tensor], Any], network: nn.Module, paths: Sequence[str], image: Tensor, full_pass: bool = False
) -> dict[str, Tensor]:
    """Copies of the outputs of the modules at `paths`, in the order of their calls.

    It leaves out modules that are called twice, that return no tensor with one row per sample, or whose output requires
    a gradient. Unless `full_pass`, the pass ends when all outputs are recorded.
    """
    outputs: dict[str, Tensor] = {}
    calls: dict[str, int] = {}

    def recorder(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[path] = calls.get(path, 0) + 1
            if isinstance(output, Tensor) and len(output) == len(image) and not output.requires_grad:
                outputs[path] = output.detach().clone()  # the next module may work in place
            if len(outputs) == len(paths) and not full_pass:
                raise _AllRecorded

        return hook

    hooks = [network.get_submodule(path).register_forward_hook(recorder(path)) for path in paths]
    try:
        forward(image)
    except _AllRecorded:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return {path: output for path, output in outputs.items() if calls[path] == 1}


@contextmanager
def replay(network: nn.Module, frozen: FrozenOutputs | None) -> Iterator[None]:
    """Inside the context, modules of `network` return recorded outputs and compute nothing; None changes nothing."""
    if frozen is None:
        yield
        return
    first = next(iter(frozen.values.values()))
    unused = {
        path: first.new_zeros(()).expand(len(first), *shape)
        for path, shape in frozen.shapes.items()
        if path not in frozen.values
    }
    copies = {path: value.clone() for path, value in frozen.values.items()}  # later modules may work in place
    with _return_outputs(network, {**copies, **unused}):
        yield


@contextmanager
def _require_grad_only(parameters: Sequence[nn.Parameter], network: nn.Module) -> Iterator[None]:
    """Inside the context, no other parameters of `network` require a gradient."""
    before = {parameter: parameter.requires_grad for parameter in network.parameters()}
    network.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_()
    try:
        yield
    finally:
        for parameter, required in before.items():
            parameter.requires_grad_(required)


@contextmanager
def _return_outputs(network: nn.Module, outputs: dict[str, Tensor]) -> Iterator[None]:
    """Inside the context, the modules at these paths return these outputs."""
    modules = {path: network.get_submodule(path) for path in outputs if path != IMAGE}
    try:
        for path, module in modules.items():
            module.forward = partial(_return, outputs[path])
        yield
    finally:
        for module in modules.values():
            module.__dict__.pop("forward", None)


def _return(output: Tensor, *_: Any, **__: Any) -> Tensor:
    # The next module may work in place, which autograd forbids for a leaf.
    return output.clone() if output.requires_grad else output


def tensors(nest: Any) -> list[Tensor]:
    """All tensors in any nest of mappings and sequences."""
    flat: list[Tensor] = []
    apply_to_collection(nest, Tensor, flat.append)
    return flat
