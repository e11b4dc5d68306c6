"""Extra metrics from the config, in addition to those of a head."""

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torchmetrics import Metric, SumMetric

from visiontune.errors import UserError, first_line
from visiontune.models.heads.base import Head
from visiontune.models.heads.metric_states import gather_states, merge_states
from visiontune.models.heads.metrics import ExtraMetric, PerClass, Value
from visiontune.nodes import build, check

EXAMPLE = "{metric: {_target_: torchmetrics.CohenKappa, task: multiclass}, direction: max}"
EXPECTED = "a torchmetrics.Metric, such as {_target_: torchmetrics.CohenKappa, task: multiclass}"


def build_metrics(head: Head) -> nn.Module:
    """New metrics of a head, including the extra ones."""
    return CombinedMetrics(head) if head.extra_metrics else head.metrics()


def build_extra_metrics(
    settings: Mapping[str, Any], classes: Iterable[str], arguments: Mapping[str, Any], key: str
) -> dict[str, ExtraMetric]:
    """The metrics of `heads.TASK.metrics`, each `{metric: {_target_: ...}, direction: max|min|null}`.

    Args:
        classes: the class names; their number is the default of `num_classes` and `num_labels`.
        arguments: more defaults; each is passed to constructors that accept it, unless the config sets it.
        key: of the config, for messages.

    Raises:
        UserError: an entry has another form or an unknown direction, or is no torchmetrics metric.
    """
    names = tuple(classes)
    defaults = {"num_classes": len(names), "num_labels": len(names), **arguments}
    extra: dict[str, ExtraMetric] = {}
    for name, entry in settings.items():
        has_form = isinstance(entry, Mapping) and entry.keys() <= {"metric", "direction"}
        node = entry.get("metric") if has_form else None
        if not isinstance(node, Mapping) or "_target_" not in node or "/" in name:
            raise UserError(f"{key}.{name}={entry}: write a metric and its direction, such as {key}.{name}={EXAMPLE}")
        if entry.get("direction") not in ("max", "min", None):
            raise UserError(
                f"{key}.{name}.direction={entry['direction']}: write max or min, whichever is better, or null for a "
                "metric that is never the monitor"
            )
        place = f"{key}.{name}.metric"
        parameters = inspect.signature(check(node, place, EXPECTED, Metric)).parameters
        arguments_by_name = {argument: value for argument, value in defaults.items() if argument in parameters}
        metric = build({**arguments_by_name, **node}, place, EXPECTED, Metric)
        if not isinstance(metric, Metric):
            raise UserError(f"{place}={dict(node)}: expected {EXPECTED}, got {type(metric).__name__}")
        extra[name] = ExtraMetric(metric, entry.get("direction"), names)
    return extra


class CombinedMetrics(nn.Module):
    """`HeadMetrics` of a head's own metrics and its extra ones."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.metrics: Any = head.metrics()
        self.extra, self.inputs = dict(head.extra_metrics), head.metric_inputs
        self.copies: Any = nn.ModuleList(copy.deepcopy(extra.metric) for extra in self.extra.values())
        self.updates = SumMetric()  # of each extra metric, over all ranks

    def update(self, predictions: list[dict[str, Tensor]], targets: list[Any]) -> None:
        self.metrics.update(predictions, targets)
        if not predictions:
            return
        updates = 0
        for preds, target in self.inputs(predictions, targets):
            updates += 1
            for name, metric in zip(self.extra, self.copies, strict=True):
                try:
                    metric.update(preds, target)
                except Exception as error:  # torchmetrics checks its inputs by several types of error
                    raise UserError(
                        f"the extra metric {name} ({type(metric).__name__}) does not accept preds {_shape(preds)} and "
                        f"target {_shape(target)}: {first_line(error)}; write another metric, or "
                        "heads.TASK.metrics=null"
                    ) from error
        self.updates.update(updates)

    def compute(self) -> dict[str, Value]:
        computed: dict[str, Value] = dict(self.metrics.compute())
        updated = bool(self.updates.compute())
        for (name, extra), metric in zip(self.extra.items(), self.copies, strict=True):
            nan = torch.full((), torch.nan, device=self.updates.device)
            computed[name] = _compute(name, extra, metric) if updated else nan
        return computed

    def reset(self) -> None:
        metrics: tuple[Any, ...] = (self.metrics, *self.copies, self.updates)
        for metric in metrics:
            metric.reset()


def _compute(name: str, extra: ExtraMetric, metric: Any) -> Value:
    """One number, or one per class, over the samples of all ranks."""
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        # torchmetrics exchanges one state after another and needs the same types and shapes on every rank, which a
        # rank without samples does not have.
        states = gather_states(metric)
        metric = copy.deepcopy(metric)
        for part in metric.modules():
            part.sync_on_compute = False
        merge_states(metric, states)
    try:
        value = metric.compute()
    except Exception as error:
        raise UserError(
            f"the extra metric {name} ({type(metric).__name__}): {first_line(error)}; write another metric, or "
            "heads.TASK.metrics=null"
        ) from error
    if isinstance(value, Mapping):
        if name not in value:
            raise UserError(f"the extra metric {name} computes {', '.join(value)}: name it after one of these")
        value = value[name]
    value = torch.as_tensor(value)
    if value.numel() == 1:
        return value.reshape(())
    if value.shape == (len(extra.classes),) and extra.direction is None:
        return PerClass(name, extra.classes, value)
    raise UserError(
        f"the extra metric {name} computes {_shape(value)}: expected one number, or {len(extra.classes)} (one per "
        "class) with direction=null; write e.g. average=macro"
    )


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__
