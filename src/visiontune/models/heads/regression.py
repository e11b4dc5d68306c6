"""One or several numbers per image."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from visiontune.data.frames import Frame
from visiontune.data.schema import TaskInfo
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads.base import Prediction, Raw
from visiontune.models.heads.describable import Describable
from visiontune.models.heads.distillable import Distillable
from visiontune.models.heads.drawing import caption
from visiontune.models.heads.element_loss import ElementLossHead
from visiontune.models.heads.embedding import EmbeddingHead
from visiontune.models.heads.losses import build_loss
from visiontune.models.heads.metrics import PerClass, Value
from visiontune.models.heads.probeable import Probe, Probeable
from visiontune.models.heads.ridge import ridge

LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}


class RegressionMetrics(Metric):
    """MAE, RMSE and R2 in the user's units, each the mean over the values, computed from all samples in 64 bits.

    NaN in a truth is left out. The R2 of a value that is constant in the truth is undefined (NaN), and the mean leaves
    it out.
    """

    full_state_update = False
    predicted: list[Tensor]
    truth: list[Tensor]

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.add_state("predicted", [], dist_reduce_fx="cat")
        self.add_state("truth", [], dist_reduce_fx="cat")

    def update(self, predictions: list[Prediction], targets: list[Tensor]) -> None:
        # Also without samples: the exchange between ranks needs a tensor of every rank.
        empty = torch.empty(0, len(self.names), device=self.device)
        self.predicted.append(torch.cat([empty, *(prediction["values"][None].to(empty) for prediction in predictions)]))
        self.truth.append(torch.cat([empty, *(target[None].to(empty) for target in targets)]))

    def compute(self) -> dict[str, Value]:
        predicted, truth = (dim_zero_cat(part).cpu().double() for part in (self.predicted, self.truth))
        error = predicted - truth
        mae, mse = error.abs().nanmean(0), error.square().nanmean(0)
        spread = (truth - truth.nanmean(0)).square().nanmean(0)
        r2 = torch.where(spread > 0, 1 - mse / spread, torch.nan)
        means = {"mae": mae.nanmean(), "rmse": mse.sqrt().nanmean(), "r2": r2.nanmean()}
        computed: dict[str, Value] = {name: value.float().to(self.device) for name, value in means.items()}
        if len(self.names) > 1:
            computed["mae_per_class"] = PerClass("mae", tuple(self.names), mae.float().to(self.device))
        return computed


class RegressionHead(ElementLossHead, EmbeddingHead, Describable, Distillable, Probeable):
    """Predicts values standardised by the training split; predictions are in the user's units.

    A target is ``(V,)``. NaN is an unknown value, which losses and metrics leave out. Extra metrics are updated with
    values and targets in the user's units, ``(N, V)`` or ``(N,)`` if V is 1, of the samples whose values are all known.

    Args:
        loss: "mse", "l1", "huber" (linear from one standard deviation on) or a module, see
            `visiontune.models.heads.losses`; the mean over a sample's known values, which are standardised.
        hidden: width of a hidden GELU layer, or None.
        dropout: 0..1, before the last layer.

    Raises:
        UserError: an unknown loss.
    """

    directions = dict.fromkeys(("mae", "rmse", "loss"), "min") | {"r2": "max"}
    monitor = "mae"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        features: FeatureShape,
        info: TaskInfo,
        loss: str | nn.Module = "mse",
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features, len(info.classes), dropout, hidden)
        self.names = list(info.classes)
        example = torch.zeros(2, len(self.names))
        self.loss_module = build_loss(loss, LOSSES, "heads.regression.loss", example, example, ignores_unknown=False)
        # Distillation uses the criterion also if the loss is a module.
        self.criterion = LOSSES[loss] if isinstance(loss, str) else F.mse_loss
        self.metric_arguments = {"num_outputs": len(self.names)}
        self.register_buffer("mean", torch.zeros(len(self.names)))
        self.register_buffer("std", torch.ones(len(self.names)))

    def fit_targets(self, targets: list[Any]) -> None:
        """Set the mean and the standard deviation of every value; a constant value has a deviation of 1."""
        values = _stack(targets, self.mean).double()
        mean = values.nanmean(0)
        std = (values - mean).square().nanmean(0).sqrt()
        self.mean.copy_(mean.nan_to_num(0.0))
        self.std.copy_(std.where(std > 0, torch.ones_like(std)))

    def forward(self, features: Features) -> Raw:
        """`values` ``(B, V)``, standardised."""
        return {"values": self.layers(features)}

    def loss_inputs(self, raw: Raw, targets: list[Any]) -> tuple[Tensor, Tensor]:
        return raw["values"].float(), (_stack(targets, self.mean) - self.mean) / self.std

    def element_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return self.criterion(predictions, targets, reduction="none")

    def distill(self, raw: Raw, teacher: Self, teacher_outputs: Raw, temperature: float) -> Tensor:
        """In this head's standardised values; the teacher may have another mean and standard deviation."""
        values = ((teacher_outputs["values"].float() * teacher.std + teacher.mean) - self.mean) / self.std
        return self.criterion(raw["values"].float(), values)

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        """`values` ``(B, V)``, in the user's units."""
        return {"values": raw["values"].float() * self.std + self.mean}

    def metrics(self) -> RegressionMetrics:
        return RegressionMetrics(self.names)

    def metric_inputs(self, predictions: list[Prediction], targets: list[Any]) -> Iterable[tuple[Tensor, Tensor]]:
        values = torch.stack([prediction["values"] for prediction in predictions]).float()
        truth = torch.stack(targets).to(values)
        known = ~truth.isnan().any(1)
        if known.any():
            yield (values[known], truth[known]) if len(self.names) > 1 else (values[known, 0], truth[known, 0])

    def score(self, computed: Mapping[str, Any]) -> Tensor:
        """R2, 0 where it is negative or undefined."""
        return computed["r2"].nan_to_num(0.0).clamp_min(0.0)

    def describe(self, prediction: Prediction) -> tuple[str, float]:
        return self.describe_target(prediction["values"]), math.nan

    def describe_target(self, target: Any) -> str:
        """The number, or several numbers with their names. An unknown value is a question mark."""
        if target is None:
            return ""
        texts = ["?" if math.isnan(value) else f"{value:.4g}" for value in target.tolist()]
        if len(texts) == 1:
            return texts[0]
        return ", ".join(f"{name} {text}" for name, text in zip(self.names, texts, strict=True))

    def draw(self, image: Tensor, prediction: Prediction | None, target: Any = None) -> Tensor:
        """The numbers, on red if one is off by more than its standard deviation in the training split."""
        lines = [] if prediction is None else [self.describe(prediction)[0]]
        if target is not None:
            lines.append(f"truth: {self.describe_target(target)}")
        far = False
        if prediction is not None and target is not None:
            far = bool(((prediction["values"].cpu() - target.cpu()).abs() > self.std.cpu()).any())
        return caption(image, lines, bad=far)

    @torch.no_grad()
    def fit_probe(self, train: Probe, val: Probe) -> str | None:
        """Ridge regression with the penalty that is best on val for each value; None with a hidden layer."""
        if self.hidden is not None:
            return None
        x, y, x_val, y_val = (tensor for split in (train, val) for tensor in self._labelled(*split))
        if not ((~y.isnan()).any(0) & (~y_val.isnan()).any(0)).all():
            return None
        fit = ridge(x, y, x_val, y_val)
        self.linear.weight.copy_(fit.weight)
        self.linear.bias.copy_(fit.bias)
        penalties = ", ".join(f"{penalty:g}" for penalty in sorted(set(fit.penalties.tolist())))
        error = fit.val_errors.mean().sqrt()
        return f"ridge regression on {len(y)} embeddings, penalty {penalties}, error on val {error:.3f} deviations"

    def _labelled(self, embeddings: Tensor, targets: list[Any]) -> tuple[Tensor, Tensor]:
        """Embeddings and standardised targets of the samples with a label."""
        rows = [i for i, t in enumerate(targets) if t is not None]
        x = embeddings[rows].float()
        return x, (_stack([targets[i] for i in rows], self.mean) - self.mean) / self.std


def _stack(targets: list[Any], like: Tensor) -> Tensor:
    """``(N, V)`` on the device of `like` ``(V,)``; NaN for a sample without a target."""
    values = like.new_full((len(targets), len(like)), torch.nan)
    for row, target in zip(values, targets, strict=True):
        if target is not None:
            row.copy_(target)
    return values
