"""Run a network without its first stages: what their modules gave is recorded once and given again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

IMAGE = "image"  # stands for the image itself, where a head looks at it


@dataclass
class Frozen:
    """What stands for the first stages in one batch.

    Attributes:
        values: path of a module -> its output ``(B, ...)``, of those that anything behind the stages looks at.
        shapes: path -> shape of one sample's output, of all modules of the stages.
    """

    values: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Cut:
    """Which outputs are needed so that the stages before need not run: see `Frozen`."""

    needed: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]


def cut(
    run: Callable[[Tensor], Any],
    network: nn.Module,
    paths: Sequence[str],
    image: Tensor,
    trained: Sequence[nn.Parameter] = (),
) -> Cut | None:
    """Find out, by running it, what replaces the modules at `paths` exactly; None where nothing does.

    Nothing is assumed of how the network calls its modules: what the result depends on is what has a gradient.

    Args:
        run: image -> any nest of tensors, through all of `network`, in evaluation mode.
        paths: of modules of `network`.
        image: a few samples ``(B, C, H, W)``.
        trained: parameters that change meanwhile; a module whose output depends on one runs as it is.
    """
    with torch.enable_grad(), _requiring_alone(trained, network):
        recorded = capture(run, network, paths, image, whole=True)
    leaves = {path: value.requires_grad_() for path, value in recorded.items() if value.is_floating_point()}
    if not leaves:
        return None
    leaves[IMAGE] = image.clone().requires_grad_()
    with torch.enable_grad(), _given(network, {path: leaves.get(path, value) for path, value in recorded.items()}):
        results = [tensor for tensor in tensors(run(leaves[IMAGE])) if tensor.requires_grad]
        total = torch.stack([tensor.float().sum() for tensor in results]).sum()
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    needed = tuple(path for path, found in zip(leaves, gradients, strict=True) if found is not None)
    if not {*needed} - {IMAGE}:
        return None
    found = Cut(needed, {path: tuple(value.shape[1:]) for path, value in recorded.items()})
    with torch.no_grad():
        nothing = {path: torch.full_like(value, torch.nan) for path, value in recorded.items() if path not in needed}
        with _given(network, {**recorded, **nothing}):
            again = tensors(run(image if IMAGE in needed else torch.full_like(image, torch.nan)))
        same = all(torch.equal(one, other) for one, other in zip(tensors(run(image)), again, strict=True))
    return found if same else None


class _Enough(Exception):
    """Everything that was asked for is recorded: the rest of the pass need not run."""


def capture(
    run: Callable[[Tensor], Any], network: nn.Module, paths: Sequence[str], image: Tensor, whole: bool = False
) -> dict[str, Tensor]:
    """Copies of the outputs of the modules at `paths`, in the order of their calls.

    Those that are called twice, give no tensor with a row a sample, or one with a gradient are left out. Unless
    `whole`, the pass ends with the last of them.
    """
    recorded: dict[str, Tensor] = {}
    calls: dict[str, int] = {}

    def record(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[path] = calls.get(path, 0) + 1
            if isinstance(output, Tensor) and len(output) == len(image) and not output.requires_grad:
                recorded[path] = output.detach().clone()  # the next module may work in place
            if len(recorded) == len(paths) and not whole:
                raise _Enough

        return hook

    hooks = [network.get_submodule(path).register_forward_hook(record(path)) for path in paths]
    try:
        run(image)
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return {path: value for path, value in recorded.items() if calls[path] == 1}


@contextmanager
def replay(network: nn.Module, frozen: Frozen | None) -> Iterator[None]:
    """Within, modules of `network` give the recorded outputs and do nothing; None changes nothing."""
    if frozen is None:
        yield
        return
    some = next(iter(frozen.values.values()))
    ignored = {
        path: some.new_zeros(()).expand(len(some), *shape)
        for path, shape in frozen.shapes.items()
        if path not in frozen.values
    }
    own = {path: value.clone() for path, value in frozen.values.items()}  # modules behind may work in place
    with _given(network, {**own, **ignored}):
        yield


@contextmanager
def _requiring_alone(parameters: Sequence[nn.Parameter], network: nn.Module) -> Iterator[None]:
    """Within, no others of `network` require a gradient."""
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
def _given(network: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    modules = {path: network.get_submodule(path) for path in values if path != IMAGE}
    try:
        for path, module in modules.items():
            module.forward = partial(_give, values[path])
        yield
    finally:
        for module in modules.values():
            module.__dict__.pop("forward", None)


def _give(value: Tensor, *_: Any, **__: Any) -> Tensor:
    return value.clone() if value.requires_grad else value  # the next module may work in place, which a leaf forbids


def tensors(nest: Any) -> list[Tensor]:
    """Those of any nest of mappings and sequences."""
    found: list[Tensor] = []
    apply_to_collection(nest, Tensor, found.append)
    return found
