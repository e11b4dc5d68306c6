"""Load a pretrained model into a backbone and a head."""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from visiontune.data.schema import TaskInfo
from visiontune.errors import UserError, shell_override, some
from visiontune.models.backbones import Backbone, WeightReport, load_state
from visiontune.models.heads import Head
from visiontune.models.heads.class_rows import describe_rows, match_classes, object_entries
from visiontune.models.heads.query_rows import resize_queries
from visiontune.models.pretrained.torchvision import TorchvisionWeights
from visiontune.models.pretrained.transformers import TransformersWeights
from visiontune.models.pretrained.weights import PretrainedWeights

# Value of `pretrained.library` -> its weights, built with the config's `pretrained`.
LIBRARIES: dict[str, Callable[[Mapping[str, Any]], PretrainedWeights]] = {
    "torchvision": TorchvisionWeights,
    "transformers": TransformersWeights,
}
STATISTICS = ("backbone.mean", "backbone.std")


def load_pretrained(
    backbone: Backbone,
    heads: Mapping[str, Head],
    settings: Mapping[str, Any],
    schema: Mapping[str, TaskInfo],
    allow_download: bool = True,
) -> WeightReport:
    """Fill the backbone and the head of `settings.task` with pretrained weights; without that head, the backbone.

    Rows of classes that the weights know by name are kept, see `Head.class_rows`. Other classes begin with the mean of
    the rows of all classes in the weights, see `ClassRows.copy`.

    Args:
        settings: the config's `pretrained`, with `weights` that are not null.
        schema: the classes of the data.
        allow_download: False loads nothing if the weights would have to be downloaded, and the report says so.

    Raises:
        UserError: there are no such weights, they do not fit, or a class in the settings does not exist.
    """
    name, task = settings["name"], settings["task"]
    weights = LIBRARIES[settings["library"]](settings)
    categories = list(settings["classes"] or weights.categories)
    head = heads.get(task) if settings["load"] == "all" else None
    remarks = [] if head is not None else [_only_backbone(settings, heads)]
    filled = [] if head is None else [task]
    matches: dict[int, int] = {}
    if head is not None:
        matches = _match_classes(head, schema[task].classes, categories, settings["map"] or {})
        remarks += _describe_classes(head, schema[task].classes, matches)
        remarks += [f"heads.{other} begins random: {name} has no head for it" for other in heads if other != task]

    if settings["weights"] != "default":
        state, source = weights.read(settings["weights"]), str(settings["weights"])
    elif allow_download or weights.is_cached():
        state, source = weights.download(), weights.source
    else:
        note = f"{weights.size} would be downloaded"
        return WeightReport(weights.source, note=note, missing_download=True, remarks=remarks, heads=filled)

    renamed = weights.rename(state, task)
    parts: dict[str, nn.Module] = {"backbone": backbone}
    if head is None:
        renamed = {key: value for key, value in renamed.items() if key.startswith("backbone.")}
    else:
        parts["heads"] = nn.ModuleDict({task: head})
    module = nn.ModuleDict(parts)
    rows = _copy_rows(module, head, task, renamed, matches, categories, source)
    groups = {f"heads.{task}.{key}": count for key, count in head.query_groups.items()} if head is not None else {}
    queries = resize_queries(renamed, module.state_dict(), groups)
    _check_fit(module, renamed, _embedding_layers(backbone, renamed), source, settings)
    statistics = {key: value for key, value in module.state_dict().items() if key in STATISTICS}
    report = load_state(module, {**statistics, **renamed}, source, min_matched=0.0)
    report.matched = [key for key in report.matched if key not in {*STATISTICS, *rows, *queries}]
    report.reshaped = [*(f"{key} {words}" for key, words in queries.items()), *report.reshaped]
    report.reshaped += [f"{key} {words}, rows of known classes kept" for key, words in rows.items()]
    report.remarks, report.heads = remarks, filled
    return report


def _match_classes(
    head: Head, names: Sequence[str], categories: Sequence[str], aliases: Mapping[str, str | None]
) -> dict[int, int]:
    """Entry of the weights for each class that keeps its rows.

    Raises:
        UserError: `pretrained.map` names a class that the data or the weights do not have.
    """
    before_classes = max((rows.offset for rows in head.class_rows().values()), default=0)
    for name, alias in aliases.items():
        sides = ((name, names, "the data has"), (alias, categories[before_classes:], "the weights have"))
        for value, known, owner in sides:
            if value is not None and not match_classes([value], known):
                near = difflib.get_close_matches(value, known, cutoff=0.3) or list(known[:5])
                override = shell_override("pretrained.map", f"{{{name}: {alias}}}")
                raise UserError(f"{override}: {owner} no class {value}; near it: {', '.join(near)}")
    matches = match_classes(names, categories, aliases)
    return {index: entry for index, entry in matches.items() if entry >= before_classes}


def _describe_classes(head: Head, names: Sequence[str], matches: Mapping[int, int]) -> list[str]:
    if not head.class_rows():
        return []
    return [describe_rows(names, matches, " (pretrained.map={{name}: NAME} takes the rows of another class)")]


def _only_backbone(settings: Mapping[str, Any], heads: Mapping[str, Head]) -> str:
    if settings["load"] == "backbone":
        return "only the backbone is used (pretrained.load=backbone)"
    return (
        f"only the backbone is used, since {settings['name']} has a head for {settings['task']} and this run has "
        f"{', '.join(heads)}"
    )


def _copy_rows(
    module: nn.Module,
    head: Head | None,
    task: str,
    renamed: dict[str, Tensor],
    matches: Mapping[int, int],
    categories: Sequence[str],
    source: str,
) -> dict[str, str]:
    """Replace the tensors with rows per class in `renamed` by the model's with the kept rows; return their shapes.

    Raises:
        UserError: the weights have another number of classes.
    """
    expected, shapes = module.state_dict(), {}
    for name, layout in head.class_rows().items() if head is not None else ():
        key = f"heads.{task}.{name}"
        if key not in renamed or renamed[key].ndim == 0:
            continue
        value, target = renamed[key], expected[key]
        merged = layout.copy(value, target, len(categories), matches, object_entries(categories))
        if merged is not None:
            renamed[key] = merged
            shapes[key] = f"{tuple(value.shape)} -> {tuple(target.shape)}"
        elif value.shape[1:] == target.shape[1:]:
            known = layout.groups * len(categories) * layout.per_class
            raise UserError(
                f"{source}: {key} has {len(value)} rows, and {known} are expected for {len(categories)} classes; write "
                "the classes of this file, the background included, such as pretrained.classes=[background,cat,dog]"
            )
    return shapes


def _check_fit(
    module: nn.Module, renamed: Mapping[str, Tensor], unused: Collection[str], source: str, settings: Mapping[str, Any]
) -> None:
    """Refuse weights for another architecture, and options with which the model is another one.

    Args:
        unused: names of parameters that need no weights.

    Raises:
        UserError: less than `pretrained.min_matched` of the weights, the backbone or the head fits.
    """
    expected, task = module.state_dict(), settings["task"]
    parameters = {name: value for name, value in module.named_parameters() if name not in unused}
    matching = {key for key, value in renamed.items() if key in expected and value.shape == expected[key].shape}
    shares = {"the weights have a place in the model": _share(renamed, matching)}
    for part, name in (("backbone.", "the backbone"), ("heads.", f"heads.{task}")):
        if layers := {key: value for key, value in parameters.items() if key.startswith(part)}:
            shares[f"{name} is in the weights"] = _share(layers, matching)
    text, share = min(shares.items(), key=lambda item: item[1])
    if share < settings["min_matched"]:
        sides = {"weights": renamed.keys() - matching, "model": parameters.keys() - matching}
        others = "".join(f"; only in the {side}: {some(sorted(keys))}" for side, keys in sides.items() if keys)
        raise UserError(
            f"{source} does not fit pretrained={settings['name']}: {share:.0%} of {text}, at least "
            f"{settings['min_matched']:.0%} must (pretrained.min_matched){others}. Write weights of "
            f"{settings['name']}, and leave out options of heads.{task} and backbone that change its layers"
        )


def _share(tensors: Mapping[str, Tensor], names: Collection[str]) -> float:
    """The fraction (0..1) of the numbers in `tensors` that these names have."""
    sizes = {key: value.numel() for key, value in tensors.items()}
    return sum(size for key, size in sizes.items() if key in names) / max(1, sum(sizes.values()))


def _embedding_layers(backbone: Backbone, renamed: Mapping[str, Tensor]) -> set[str]:
    """Parameters after the last layer of the backbone that the weights have: only the embedding needs them."""
    layers: set[str] = set()
    for layer in reversed([part for _, stage in backbone.stages() for part in stage.children()]):
        members = {id(parameter) for parameter in layer.parameters()}
        keys = {f"backbone.{name}" for name, value in backbone.named_parameters() if id(value) in members}
        if not keys.isdisjoint(renamed):
            break
        layers |= keys
    return layers
