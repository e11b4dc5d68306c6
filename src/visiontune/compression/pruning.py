"""Structured pruning of a backbone: which channels are removed, and how many.

Channels coupled by additions, concatenations or norms are removed together, with the inputs of the layers that read
them: DepGraph (Fang et al. 2023, https://arxiv.org/abs/2301.12900), from the library torch-pruning.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from visiontune.compression.costs import macs, params
from visiontune.compression.timing import time_alternately
from visiontune.errors import UserError
from visiontune.models.finetuner import FineTuner

MIN_KEPT = 0.1  # fraction of a layer's channels that always remain, so that global ranking removes no layer
MAX_RATIO = 0.98  # the largest pruning ratio
TOLERANCE = 0.02  # the search stops at a cost that is less than this fraction below the target
COSTS = ("macs", "params", "latency")
IMPORTANCES = ("magnitude", "taylor", "batchnorm")
SCOPES = ("uniform", "global")


@dataclass(frozen=True)
class Ranking:
    """How channels are compared.

    Attributes:
        importance: `magnitude` (L2 norm of all weights of a channel's group), `taylor` (first-order change of the loss,
            Molchanov et al. 2019, https://arxiv.org/abs/1906.10771; needs gradients) or `batchnorm` (scales, Liu et al.
            2017, https://arxiv.org/abs/1708.06519).
        scope: `uniform` (the same ratio in every layer) or `global` (all layers compete, each layer's scores divided by
            their mean).
        multiple: a layer keeps a multiple of this many channels, or all.
    """

    importance: str = "magnitude"
    scope: str = "uniform"
    multiple: int = 8


class Traced(nn.Module):
    """All outputs of a FineTuner as a list: raw outputs, and the maps and embedding, which no head may use."""

    def __init__(self, model: FineTuner) -> None:
        super().__init__()
        self.backbone, self.heads = model.backbone, nn.ModuleDict(dict(model.heads))

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.backbone(image)
        raw = [value for head in self.heads.children() for value in head(features).values()]
        return [*(value for value in raw if isinstance(value, Tensor)), *features.maps, features.embedding]


def prune_channels(model: FineTuner, ratio: float, ranking: Ranking, size: tuple[int, int]) -> FineTuner:
    """A copy of `model` in evaluation mode, without about `ratio` (0..1) of the backbone's channels.

    Heads keep their widths and lose the removed inputs. Layers that split channels into attention heads also keep their
    widths, and so do a transformer's tokens: there only hidden layers inside a block are pruned.

    Args:
        size: (H, W) of the image that the graph is traced with.

    Raises:
        Exception: of any type, if torch-pruning cannot trace the network.
    """
    import torch_pruning as tp

    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model = copy.deepcopy(model).eval().requires_grad_(True)
    for name, parameter in model.named_parameters():
        # Layers of the embedding have no gradient if no head reads it.
        parameter.grad = torch.zeros_like(parameter) if gradients[name] is None else gradients[name]
    traced = Traced(model)
    fixed = [*traced.heads.modules(), *_attentions(model.backbone)]
    image = torch.rand(2, model.backbone.in_channels, *size)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # about parameters outside of layers, which are handled correctly
        graph = tp.DependencyGraph().build_dependency(traced, image, output_transform=_differentiable, verbose=False)
        score = {
            "magnitude": tp.importance.GroupMagnitudeImportance(p=2),
            "taylor": tp.importance.GroupTaylorImportance(),
            "batchnorm": tp.importance.BNScaleImportance(),
        }[ranking.importance]
        scored = [(group, score(group), _parts(graph, group)) for group in graph.get_all_groups(fixed)]
        ranked = [
            # Scores are divided by their mean, which is 0 for layers without a gradient.
            (group[0].dep, scores.detach().nan_to_num(0.0).view(parts, -1).sum(0), parts)
            for group, scores, parts in scored
            if scores is not None
        ]
        for (dep, scores, parts), count in zip(ranked, _channel_counts(ranked, ratio, ranking), strict=True):
            removed = scores.argsort()[: len(scores) - count]
            if len(removed):
                indices = [int(i) + part * len(scores) for part in range(parts) for i in removed]
                graph.get_pruning_group(dep.target.module, dep.handler, indices).prune()
    model.zero_grad()
    return model


def _attentions(backbone: nn.Module) -> Iterator[nn.Module]:
    """Every module that splits channels into attention heads, and its submodules."""
    for module in backbone.modules():
        inner = list(module.modules())
        if hasattr(module, "num_heads") and not any(hasattr(part, "num_heads") for part in inner[1:]):
            yield from inner


def _differentiable(outputs: list[Tensor]) -> list[Tensor]:
    return [output for output in outputs if output.requires_grad]


def _parts(graph: Any, group: Any) -> int:
    """Number of equal parts of a group's channels (grouped convolutions and norms); each loses as many channels."""
    counts = {1}
    for dep, _ in group:
        module = dep.target.module
        if isinstance(module, nn.Conv2d) and module.groups != module.out_channels:
            counts.add(module.groups)
        elif isinstance(module, nn.GroupNorm):
            counts.add(module.num_groups)
    return max(counts)


def _channel_counts(ranked: list[tuple[Any, Tensor, int]], ratio: float, ranking: Ranking) -> list[int]:
    """Number of channels that each group keeps in each of its parts."""
    if not ranked:
        raise ValueError("no layer can be made narrower")
    counts = [round((1 - ratio) * len(scores)) for _, scores, _ in ranked]
    if ranking.scope == "global":
        threshold = torch.cat([scores for _, scores, _ in ranked]).quantile(ratio)
        counts = [int((scores > threshold).sum()) for _, scores, _ in ranked]
    rounded = []
    for (_, scores, parts), count in zip(ranked, counts, strict=True):
        step = ranking.multiple // math.gcd(ranking.multiple, parts)
        min_count = max(count, math.ceil(MIN_KEPT * len(scores)), 1)
        rounded.append(min(len(scores), math.ceil(min_count / step) * step))
    return rounded


def prune_to_target(
    model: FineTuner, reference: FineTuner, cost: str, fraction: float, ranking: Ranking, size: tuple[int, int]
) -> FineTuner:
    """Prune `model` as little as needed to cost at most `fraction` (0..1) of `reference`, by bisection.

    Args:
        cost: macs, params or latency.
        size: (H, W) of the image.

    Raises:
        UserError: the target cannot be reached.
    """
    relative_cost = _relative_cost(cost, reference, size)
    low, high, best, last = 0.0, MAX_RATIO, None, 1.0
    for ratio in (MAX_RATIO, *[None] * 10):
        ratio = (low + high) / 2 if ratio is None else ratio
        candidate = prune_channels(model, ratio, ranking, size)
        last = relative_cost(candidate)
        if last <= fraction:
            high, best = ratio, candidate
            if last > (1 - TOLERANCE) * fraction:
                break
        elif best is None:
            advice = f"write {cost}={last + 0.05:.2f}" if last < 0.95 else "nearly all of the cost is in the heads"
            raise UserError(
                f"{cost}={fraction:g} of the original cannot be reached by pruning the backbone: without "
                f"{MAX_RATIO:.0%} of its channels the network still has {last:.2f}; {advice}"
            )
        else:
            low = ratio
    assert best is not None
    return best


def batchnorms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


@torch.no_grad()
def remeasure_batchnorm(model: FineTuner, images: Iterable[Tensor]) -> None:
    """Replace BatchNorm's statistics by the mean over the batches of `images`.

    The old statistics are those of the wider network.
    """
    norms = batchnorms(model.backbone)
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch averages over all batches
        norm.train()
    for image in _join_single_images(images):
        _ = model.backbone(image).embedding
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _join_single_images(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Join a single image with the next batch, since it may have no variance; drop it if it is the last of several."""
    single, any_batch = None, False
    for batch in batches:
        batch = batch if single is None else torch.cat([single, batch])
        single = batch if len(batch) == 1 else None
        if single is None:
            any_batch = True
            yield batch
    if single is not None and not any_batch:
        yield single


def _relative_cost(cost: str, reference: FineTuner, size: tuple[int, int]) -> Callable[[FineTuner], float]:
    """A function that computes a network's cost as a fraction of the reference's."""
    if cost == "latency":
        return lambda model: latency(model, reference, size)
    count: Callable[[FineTuner], int] = params if cost == "params" else lambda model: macs(model, size)
    reference_cost = count(reference)
    return lambda model: count(model) / reference_cost


@torch.no_grad()
def latency(model: FineTuner, reference: FineTuner, size: tuple[int, int]) -> float:
    """Latency of `model` for one image, as a fraction of that of `reference`."""
    image = torch.rand(1, model.backbone.in_channels, *size).to(memory_format=torch.channels_last)
    calls = {"reference": partial(reference.eval(), image), "model": partial(model.eval(), image)}
    return 1 / time_alternately(calls, rounds=15, turn=0.02)["model"].faster
