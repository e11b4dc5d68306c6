"""Which channels of a backbone go, and how many: structured pruning by dependency graph.

Channels that are joined by additions, concatenations or norms go together, and what reads them follows: DepGraph (Fang
et al. 2023, https://arxiv.org/abs/2301.12900), as the library torch-pruning has it.
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
from visiontune.compression.timing import alternating
from visiontune.errors import UserError
from visiontune.models.finetuner import FineTuner

LEAST = 0.1  # of a layer's channels stay, so that global ranking cuts no layer off
MOST = 0.98  # the largest ratio that is tried
EXACT = 0.02  # a cost this close below its target (as a fraction of it) will do
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
        multiple: what a layer keeps is a multiple of this, or all.
    """

    importance: str = "magnitude"
    scope: str = "uniform"
    multiple: int = 8


class Traced(nn.Module):
    """All that a FineTuner computes, as a list: raw outputs, and maps and embedding even where no head reads them."""

    def __init__(self, model: FineTuner) -> None:
        super().__init__()
        self.backbone, self.heads = model.backbone, nn.ModuleDict(dict(model.heads))

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.backbone(image)
        raw = [value for head in self.heads.children() for value in head(features).values()]
        return [*(value for value in raw if isinstance(value, Tensor)), *features.maps, features.embedding]


def pruned(model: FineTuner, ratio: float, ranking: Ranking, size: tuple[int, int]) -> FineTuner:
    """A copy of `model` in evaluation mode without about `ratio` of the backbone's channels.

    Heads keep their widths and lose the inputs that have gone. So do layers that split channels into attention heads,
    and with them a transformer's tokens: only what lies between two layers of a block is pruned there.

    Args:
        size: (H, W) of the image that the graph is traced with.

    Raises:
        Exception: of any type, where torch-pruning cannot follow the network.
    """
    import torch_pruning as tp

    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model = copy.deepcopy(model).eval().requires_grad_(True)
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name]
    whole = Traced(model)
    fixed = [*whole.heads.modules(), *_attentions(model.backbone)]
    image = torch.rand(2, model.backbone.in_channels, *size)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # of parameters that it found by itself, and is right about
        graph = tp.DependencyGraph().build_dependency(whole, image, output_transform=_differentiable, verbose=False)
        score = {
            "magnitude": tp.importance.GroupMagnitudeImportance(p=2),
            "taylor": tp.importance.GroupTaylorImportance(),
            "batchnorm": tp.importance.BNScaleImportance(),
        }[ranking.importance]
        found = [(group, score(group), _parts(graph, group)) for group in graph.get_all_groups(fixed)]
        ranked = [
            (group[0].dep, scores.detach().view(parts, -1).sum(0), parts)
            for group, scores, parts in found
            if scores is not None
        ]
        for (dep, scores, parts), kept in zip(ranked, _kept(ranked, ratio, ranking), strict=True):
            gone = scores.argsort()[: len(scores) - kept]
            if len(gone):
                indices = [int(i) + part * len(scores) for part in range(parts) for i in gone]
                graph.get_pruning_group(dep.target.module, dep.handler, indices).prune()
    model.zero_grad()
    return model


def _attentions(backbone: nn.Module) -> Iterator[nn.Module]:
    """Every module that splits channels into attention heads, and what is in it."""
    for module in backbone.modules():
        inner = list(module.modules())
        if hasattr(module, "num_heads") and not any(hasattr(part, "num_heads") for part in inner[1:]):
            yield from inner


def _differentiable(outputs: list[Tensor]) -> list[Tensor]:
    return [output for output in outputs if output.requires_grad]


def _parts(graph: Any, group: Any) -> int:
    """How many equal parts a group's channels have, by a convolution or norm in groups; each has to lose as many."""
    found = {1}
    for dep, _ in group:
        module = dep.target.module
        if isinstance(module, nn.Conv2d) and module.groups != module.out_channels:
            found.add(module.groups)
        elif isinstance(module, nn.GroupNorm):
            found.add(module.num_groups)
    return max(found)


def _kept(ranked: list[tuple[Any, Tensor, int]], ratio: float, ranking: Ranking) -> list[int]:
    """How many channels each group keeps in each of its parts."""
    if not ranked:
        raise ValueError("no layer of it can be made narrower")
    counts = [round((1 - ratio) * len(scores)) for _, scores, _ in ranked]
    if ranking.scope == "global":
        threshold = torch.cat([scores for _, scores, _ in ranked]).quantile(ratio)
        counts = [int((scores > threshold).sum()) for _, scores, _ in ranked]
    kept = []
    for (_, scores, parts), count in zip(ranked, counts, strict=True):
        step = ranking.multiple // math.gcd(ranking.multiple, parts)
        least = max(count, math.ceil(LEAST * len(scores)), 1)
        kept.append(min(len(scores), math.ceil(least / step) * step))
    return kept


def to_target(
    model: FineTuner, reference: FineTuner, cost: str, fraction: float, ranking: Ranking, size: tuple[int, int]
) -> FineTuner:
    """`model` pruned as little as brings it to `fraction` of what `reference` costs.

    Raises:
        UserError: it stays above that, whatever goes.
    """
    price = _price(cost, reference, size)
    low, high, best, last = 0.0, MOST, None, 1.0
    for ratio in (MOST, *[None] * 10):
        ratio = (low + high) / 2 if ratio is None else ratio
        candidate = pruned(model, ratio, ranking, size)
        last = price(candidate)
        if last <= fraction:
            high, best = ratio, candidate
            if last > (1 - EXACT) * fraction:
                break
        elif best is None:
            advice = f"write e.g. {cost}={last + 0.05:.2f}" if last < 0.95 else "nearly all of it are heads"
            raise UserError(
                f"{cost}={fraction:g} of the original cannot be reached by pruning the backbone: without {MOST:.0%} of "
                f"its channels the network still has {last:.2f}; {advice}"
            )
        else:
            low = ratio
    assert best is not None
    return best


def batchnorms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


@torch.no_grad()
def remeasure_batchnorm(model: FineTuner, images: Iterable[Tensor]) -> None:
    """Statistics over `images` in the place of those of the wider network: the mean over batches.

    Without that a narrower network gives noise, and training goes on from there.
    """
    norms = batchnorms(model.backbone)
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a plain mean
        norm.train()
    for image in _several(images):
        _ = model.backbone(image).embedding
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _several(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Of two images at least, since one alone may have no variance: a rest of one is left out where it is not all."""
    waiting, found = None, False
    for batch in batches:
        batch = batch if waiting is None else torch.cat([waiting, batch])
        waiting = batch if len(batch) == 1 else None
        if waiting is None:
            found = True
            yield batch
    if waiting is not None and not found:
        yield waiting


def _price(cost: str, reference: FineTuner, size: tuple[int, int]) -> Callable[[FineTuner], float]:
    """What a network costs as a fraction of the reference's."""
    if cost == "latency":
        return lambda model: latency(model, reference, size)
    count: Callable[[FineTuner], int] = params if cost == "params" else lambda model: macs(model, size)
    whole = count(reference)
    return lambda model: count(model) / whole


@torch.no_grad()
def latency(model: FineTuner, reference: FineTuner, size: tuple[int, int]) -> float:
    """Time of `model` for one image over that of `reference`."""
    image = torch.rand(1, model.backbone.in_channels, *size).to(memory_format=torch.channels_last)
    calls = {"reference": partial(reference.eval(), image), "model": partial(model.eval(), image)}
    return 1 / alternating(calls, rounds=15, turn=0.02)["model"].faster
