"""Loading weights into a module, with a report of matched, missing, unexpected and reshaped tensors."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from visiontune.errors import UserError

# Prefixes that wrappers add to parameter names: DataParallel, Lightning modules, this package, MoCo and others.
PREFIXES = ("module", "model", "backbone", "net", "network", "encoder")
CLASSIFIERS = ("fc", "_fc", "classifier", "head", "heads", "head_dist", "last_linear", "AuxLogits")


@dataclass
class WeightReport:
    """The result of loading weights; plain data.

    Attributes:
        source: the source of the weights, in words.
        matched: names of tensors that were copied unchanged.
        missing: names that the model has and the weights lack; they keep their initialisation.
        unexpected: names that the weights have and the model lacks; they are dropped.
        reshaped: ``name (old shape) -> (new shape), adapted|initialised``.
        matched_fraction: parameter elements that were loaded (adapted ones count), over all parameter elements.
        note: how the weights were loaded, if that is unusual.
        missing_download: nothing was loaded, because the weights would have to be downloaded first.
        remarks: further lines, such as which classes keep their rows.
        heads: tasks of the heads that the weights fill, apart from rows of unknown classes.
    """

    source: str
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    matched_fraction: float = 0.0
    note: str = ""
    missing_download: bool = False
    remarks: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        note = self.note or ("would be downloaded" if self.missing_download else "")
        title = self.source + (f" ({note})" if note else "")
        remarks = [f"  {remark}" for remark in self.remarks]
        if not (self.matched or self.missing or self.unexpected or self.reshaped):
            return "\n".join([title, *remarks])
        lines = [f"{title}: {len(self.matched)} tensors matched, {self.matched_fraction:.1%} of the parameters loaded"]
        # Only a backbone has no place for a classifier.
        dropped = [key for key in self.unexpected if not self.heads and _is_classifier(key)]
        others = [key for key in self.unexpected if key not in dropped]
        for label, keys in (
            ("reshaped", self.reshaped),
            ("missing, initialised", self.missing),
            ("dropped classifier", dropped),
            ("not used", others),
        ):
            if keys:
                lines.append(f"  {label}: {_some(keys)}")
        return "\n".join([*lines, *remarks])


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str, min_matched: float = 0.5) -> WeightReport:
    """Copy into `module` the tensors that fit by name and shape, and report the rest.

    Wrapper prefixes are stripped from the names of `state`. The input convolution is adapted to another channel count
    and position embeddings are interpolated to another grid. If too few names match, but all shapes agree in their
    order (the same network from another library), the tensors are loaded in order.

    Args:
        module: a network, a backbone or a whole fine-tuner.
        state: tensors by name; not changed.
        source: their source in words, for the report and the error.
        min_matched: least fraction (0..1) of the module's parameter elements to load.

    Raises:
        UserError: less than `min_matched` fits; nothing is loaded then.
    """
    expected = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    weights = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}

    matching, report = _match(module, expected, _strip(weights, expected), sizes, source)
    if report.matched_fraction < min_matched:
        if (ordered := _in_order(weights, expected)) is not None:
            matching, report = _match(module, expected, ordered, sizes, source)
            report.note = "loaded in order: names differ, all shapes agree"
        else:
            raise UserError(_refusal(report, expected, min_matched))
    module.load_state_dict(matching, strict=False)
    return report


def _match(
    module: nn.Module, expected: dict[str, Tensor], weights: dict[str, Tensor], sizes: dict[str, int], source: str
) -> tuple[dict[str, Tensor], WeightReport]:
    report = WeightReport(source)
    matching: dict[str, Tensor] = {}
    first_conv = next((key for key, value in expected.items() if value.ndim == 4 and key in sizes), None)
    for key, target in expected.items():
        value = weights.get(key)
        if value is None:
            if not key.endswith("num_batches_tracked"):  # files older than that counter lack it, and nothing reads it
                report.missing.append(key)
        elif value.shape == target.shape:
            matching[key] = value
            report.matched.append(key)
        else:
            adapted = _adapt(module, key, value, target, is_input=key == first_conv)
            outcome = "initialised" if adapted is None else "adapted"
            report.reshaped.append(f"{key} {tuple(value.shape)} -> {tuple(target.shape)}, {outcome}")
            if adapted is not None:
                matching[key] = adapted
    report.unexpected = [key for key in weights if key not in expected and not key.endswith("num_batches_tracked")]
    loaded_size = sum(size for name, size in sizes.items() if name in matching)
    report.matched_fraction = loaded_size / max(1, sum(sizes.values()))
    return matching, report


def _adapt(module: nn.Module, key: str, value: Tensor, target: Tensor, is_input: bool) -> Tensor | None:
    """`value` in the shape of `target`; None if it cannot be adapted."""
    old, new = value.shape, target.shape
    if is_input and value.ndim == 4 and (old[0], *old[2:]) == (new[0], *new[2:]):
        return adapt_input_conv(new[1], value, base_chans=old[1])
    name = re.search(r"(pos_embed(ding)?|position_embeddings\.weight)$", key)
    if name and value.ndim == target.ndim and value.ndim in (2, 3) and old[-1] == new[-1]:
        grid = _grid(module, key)
        if grid is None:
            return None
        prefix = new[-2] - math.prod(grid)
        if math.isqrt(old[-2] - prefix) ** 2 == old[-2] - prefix:  # the number of tokens tells only a square grid
            batch = value.view(-1, *old[-2:])
            return resample_abs_pos_embed(batch, list(grid), num_prefix_tokens=prefix).view(new)
    return None


def _grid(module: nn.Module, key: str) -> tuple[int, int] | None:
    """The token grid of the network that owns the position embedding `key`."""
    for owner in _owners(module, key):
        grid = getattr(owner, "position_grid", None) or getattr(getattr(owner, "patch_embed", None), "grid_size", None)
        if grid:
            return int(grid[0]), int(grid[1])
    return None


def _owners(module: nn.Module, key: str) -> Iterator[nn.Module]:
    yield module
    for name in key.split(".")[:-1]:
        module = getattr(module, name)
        yield module


def _strip(weights: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` without the wrapper prefix whose removal makes the most names match."""
    weights = {key.replace("_orig_mod.", ""): value for key, value in weights.items()}  # torch.compile's, at any depth
    pattern = re.compile(rf"(?:(?:{'|'.join(PREFIXES)})\.)+")
    prefixes = {""}
    for key in weights:
        if match := pattern.match(key):
            words = match.group().split(".")[:-1]
            prefixes.update(".".join(words[:n]) + "." for n in range(1, len(words) + 1))

    def matches(prefix: str) -> tuple[int, int]:
        hits = sum(key.startswith(prefix) and key[len(prefix) :] in expected for key in weights)
        return hits, -len(prefix)  # the shorter prefix wins a tie

    best = max(prefixes, key=matches)
    return {key.removeprefix(best): value for key, value in weights.items()}


def _in_order(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """`weights` under the module's names if all shapes agree in order, else None; a classifier may follow them."""
    targets = [(key, value) for key, value in expected.items() if not key.endswith("num_batches_tracked")]
    values = [(key, value) for key, value in weights.items() if not key.endswith("num_batches_tracked")]
    if not 0 <= len(values) - len(targets) <= 2:  # a weight and a bias
        return None
    renamed = {}
    for i, ((key, target), (_, value)) in enumerate(zip(targets, values, strict=False)):
        old, new = value.shape, target.shape
        input_convolution = i == 0 and len(old) == 4 == len(new) and (old[0], *old[2:]) == (new[0], *new[2:])
        if old != new and not input_convolution:
            return None
        renamed[key] = value
    return renamed | dict(values[len(targets) :])


def _refusal(report: WeightReport, expected: Mapping[str, Tensor], min_matched: float) -> str:
    return (
        f"{report.source} does not fit this model: {report.matched_fraction:.0%} of its parameters match, "
        f"at least {min_matched:.0%} must (backbone.min_matched).\n"
        f"  matched {len(report.matched)}, missing {len(report.missing)}, reshaped {len(report.reshaped)}, "
        f"not used {len(report.unexpected)}\n"
        f"  the model has: {_some(list(expected))}\n"
        f"  the file has:  {_some(report.unexpected or report.reshaped)}\n"
        f"Write the backbone.name that these weights belong to, or backbone.weights=null for random weights."
    )


def _is_classifier(key: str) -> bool:
    return any(word in CLASSIFIERS for word in key.split("."))


def _some(keys: list[str], limit: int = 5) -> str:
    return ", ".join(keys[:limit]) + (f", ... ({len(keys)} in all)" if len(keys) > limit else "")
