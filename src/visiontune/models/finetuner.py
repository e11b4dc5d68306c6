"""The only LightningModule: a backbone, heads, and which stages train in each epoch."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import lightning as L
from torch import Tensor, nn
from torch.optim import Optimizer

from visiontune.data.batch import Batch
from visiontune.models.backbones import Backbone
from visiontune.models.epoch_means import EpochMeans
from visiontune.models.evaluation import Outputs, evaluate_batch, log_metrics
from visiontune.models.features import Features
from visiontune.models.heads.base import Head, Raw
from visiontune.models.loss_terms import TrainingStep
from visiontune.models.loss_weights import build_loss_weights
from visiontune.models.progress import completed_epochs
from visiontune.models.replay import replay
from visiontune.models.split_metrics import SplitMetrics, find_monitor
from visiontune.models.step_seed import seed_step
from visiontune.models.warmup import stage_warmup
from visiontune.optim.sam import Sam
from visiontune.strategies.base import HEADS, Stages, Strategy
from visiontune.strategies.freezing import batchnorm_buffers, freeze


class FineTuner(L.LightningModule):
    """Fine-tunes a backbone with any number of heads; it knows nothing about any task.

    Args:
        backbone: image ``(B, C, H, W)`` in 0..1 -> `Features`, with `stages()`.
        heads: task -> head.
        optimizer: parameter groups -> optimizer, with the keywords `lr` and `weight_decay` bound.
        scheduler: (optimizer, steps, monitor) -> Lightning scheduler configuration.
        strategy: which stages train in which epoch, and the parameter groups.
        loss_weights: factor of each task's loss, 1 by default; or "learned".
        sam: radius of sharpness-aware minimisation, see `Sam`; None switches it off.
        monitor: the metric "val/TASK/METRIC" that decides which epoch is best; for the default see `find_monitor`.
        seed: dropout depends on it, the epoch, the step and the rank.
        description: plain data that every checkpoint contains (class names, version).

    Raises:
        UserError: no head computes the monitor, or a loss weight is for a task without a head.
    """

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, Head],
        optimizer: partial[Optimizer],
        scheduler: Callable[..., dict[str, Any]],
        strategy: Strategy,
        loss_weights: Mapping[str, float] | str | None = None,
        sam: float | None = None,
        monitor: str | None = None,
        seed: int = 0,
        description: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads: Mapping[str, Head] = nn.ModuleDict(heads)  # type: ignore[assignment]
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.strategy, self.sam, self.seed = strategy, sam, seed
        self.loss_weights = build_loss_weights(heads, loss_weights)
        self.loss_terms = nn.ModuleList()  # see `LossTerm`; `append` adds one
        self.monitor = find_monitor(heads, monitor)
        self.description, self.split = description or {}, "test"  # the split that a `test` pass evaluates
        self.train_means, self.scores = EpochMeans(), SplitMetrics(heads)

    def stages(self) -> Stages:
        """``(name, module)`` from input to output, the heads last; disjoint, together every parameter."""
        heads = nn.ModuleList([cast(nn.Module, self.heads), self.loss_weights, self.loss_terms])
        return [*self.backbone.stages(), (HEADS, heads)]

    def forward(self, image: Tensor) -> dict[str, Raw]:
        """Raw outputs by task for images ``(B, C, H, W)`` in 0..1."""
        return self._forward_features({"image": image})[1]

    def _forward_features(self, batch: Mapping[str, Any]) -> tuple[Features, dict[str, Raw]]:
        """Features and raw outputs by task."""
        with replay(self.backbone.model, batch.get("frozen")):
            features = self.backbone(batch["image"])
            return features, {task: head(features) for task, head in self.heads.items()}

    def param_groups(self) -> list[dict[str, Any]]:
        """The strategy's groups for this optimizer's learning rate and weight decay."""
        settings = self.make_optimizer.keywords
        return self.strategy.param_groups(self.stages(), settings["lr"], settings.get("weight_decay", 0.0))

    def build_optimizer(self) -> Optimizer:
        optimizer = self.make_optimizer(self.param_groups())
        return optimizer if self.sam is None else Sam(optimizer, self.sam, batchnorm_buffers(self))

    def configure_optimizers(self) -> Any:
        optimizer = self.build_optimizer()
        steps = int(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer, steps, self.monitor)}

    def on_train_epoch_start(self) -> None:
        freeze(self.stages(), self.strategy, self.current_epoch)

    # Lightning does not call on_train_epoch_start if a run resumes within an epoch.
    on_train_start = on_train_epoch_start

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        seed_step(self.seed, self.current_epoch, batch_idx, self.global_rank)
        step = TrainingStep(batch, *self._forward_features(batch))
        step.compute_losses(self.heads, log_all=len(self.heads) > 1 or len(self.loss_terms) > 0)
        extra = [term(self, step) for term in self.loss_terms]  # before the sum, since a term may change the losses
        self.losses = {task: loss.detach() for task, loss in step.losses.items()}
        total = sum(extra, start=self.loss_weights(step.losses, step.labelled))
        self.train_means.update(step.curves | {"train/loss": (total, len(batch["index"]))})
        if len(self.heads) > 1:
            self.log_dict({f"train/{task}/weight": factor for task, factor in self.loss_weights.factors().items()})
        self.log("train/loss_step", total.detach(), prog_bar=True)
        return total

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.trainer.is_last_batch:
            self.log_dict(self.train_means.compute(self.trainer), on_step=False, on_epoch=True, batch_size=1)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        with stage_warmup(optimizer, self.strategy, epoch + (batch_idx + 1) / int(self.trainer.num_training_batches)):
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def outputs(self, batch: Batch) -> Outputs:
        """Raw outputs and one prediction per image, by task."""
        _, outputs = self._forward_features(batch)
        return {task: (raw, self.heads[task].decode(raw, batch["frame"])) for task, raw in outputs.items()}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return evaluate_batch(self.outputs(batch), self.heads, batch, self.scores)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        log_metrics(self, "val")

    def on_test_epoch_end(self) -> None:
        log_metrics(self, self.split)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[tuple[str, dict[str, Any]]]:
        """``(path, {task: prediction})`` of every sample."""
        outputs = self.outputs(batch)
        return [(path, {task: p[i] for task, (_, p) in outputs.items()}) for i, path in enumerate(batch["path"])]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["visiontune"] = self.description | {"epochs": completed_epochs(self.trainer)}
