"""The only LightningModule: a backbone, heads, and what trains when."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from visiontune.models.backbones import Backbone
from visiontune.models.epoch_means import EpochMeans
from visiontune.models.features import Features
from visiontune.models.heads import Head
from visiontune.models.heads.base import Prediction, Raw
from visiontune.models.loss_weights import loss_weights as weights_of
from visiontune.models.rank_state import gather_ranks, restore_rank, save_ranks
from visiontune.models.replay import replayed
from visiontune.models.split_metrics import Scores, monitored
from visiontune.optim.sam import Sam
from visiontune.strategies import Stages, Strategy
from visiontune.strategies.base import HEADS
from visiontune.strategies.freezing import average_batchnorm, batchnorm_buffers, freeze

if TYPE_CHECKING:
    from visiontune.models.distillation import Distillation

Batch = dict[str, Any]


class FineTuner(L.LightningModule):
    """Fine-tunes a backbone through any number of heads; knows of no task.

    Args:
        backbone: image ``(B, C, H, W)`` in 0..1 -> `Features`, with `stages()`.
        heads: task -> head; one head is a mapping of one.
        optimizer: parameter groups -> optimizer, with the keywords `lr` and `weight_decay` bound.
        scheduler: (optimizer, steps, monitor) -> Lightning scheduler configuration.
        strategy: which stages train in which epoch, and the parameter groups.
        loss_weights: factor of each task's loss, 1 where it is not named; or "learned".
        l1: weight of the sum of absolute values of the trained parameters that have more than one dimension.
        sam: distance of sharpness-aware minimisation, see `Sam`; None is without.
        monitor: "val/TASK/METRIC" that decides which epoch is best; None = the head's own, with several heads
            "val/score", the mean of their scores.
        seed: what dropout draws from, with the step and the rank.
        description: plain data kept in every checkpoint (class names, version).
    Raises:
        UserError: a monitor that no head gives, a loss weight for no head.
    """

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, Head],
        optimizer: partial[Optimizer],
        scheduler: Callable[..., dict[str, Any]],
        strategy: Strategy,
        loss_weights: Mapping[str, float] | str | None = None,
        l1: float = 0.0,
        sam: float | None = None,
        monitor: str | None = None,
        seed: int = 0,
        description: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads: Mapping[str, Head] = nn.ModuleDict(heads)  # type: ignore[assignment]
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.strategy = strategy
        self.weigh = weights_of(heads, loss_weights)
        self.l1, self.sam = l1, sam
        self.monitor = monitored(heads, monitor)
        self.seed = seed
        self.description = description or {}
        self.distillation: Distillation | None = None  # with a teacher
        self.split = "test"  # which split a `test` pass measures
        self.means = EpochMeans()
        self.gradients: dict[str, Tensor] = {}  # that a checkpoint within an accumulation window had
        self.scores = Scores(heads)

    def stages(self) -> Stages:
        """``(name, module)`` from input to output, the heads last; disjoint, together every parameter."""
        beside = [self.weigh] if self.distillation is None else [self.weigh, self.distillation]
        return [*self.backbone.stages(), (HEADS, nn.ModuleList([cast(nn.Module, self.heads), *beside]))]

    def forward(self, image: Tensor) -> dict[str, dict[str, Tensor]]:
        """Raw outputs by task for images ``(B, C, H, W)`` in 0..1."""
        features = self.backbone(image)
        return {task: head(features) for task, head in self.heads.items()}

    def _forward_features(self, batch: Batch) -> tuple[Features, dict[str, Raw]]:
        """Features and raw outputs by task."""
        with replayed(self.backbone.model, batch.get("frozen")):
            features = self.backbone(batch["image"])
            return features, {task: head(features) for task, head in self.heads.items()}

    def param_groups(self) -> list[dict[str, Any]]:
        """The strategy's groups for this optimizer's learning rate and weight decay."""
        settings = self.make_optimizer.keywords
        return self.strategy.param_groups(self.stages(), settings["lr"], settings.get("weight_decay", 0.0))

    # ---- training

    def build_optimizer(self) -> Optimizer:
        optimizer = self.make_optimizer(self.param_groups())
        return optimizer if self.sam is None else Sam(optimizer, self.sam, batchnorm_buffers(self))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.build_optimizer()
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = self.make_scheduler(optimizer, steps, self.monitor)
        return {"optimizer": optimizer, "lr_scheduler": cast(Any, scheduler)}

    def on_train_start(self) -> None:
        # Lightning begins no epoch again that a run goes on within: it would train what is frozen.
        freeze(self.stages(), self.strategy, self.current_epoch)
        for name, parameter in self.named_parameters():
            if name in self.gradients:
                parameter.grad = self.gradients[name].to(parameter)
        self.gradients = {}

    def on_train_epoch_start(self) -> None:
        freeze(self.stages(), self.strategy, self.current_epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Dropout depends on (seed, epoch, step, rank) alone: a resumed run draws what an uninterrupted one would, and
        # SAM's second pass what the first did.
        torch.manual_seed(hash((self.seed, self.current_epoch, batch_idx, self.global_rank)) % 2**63)
        sums: dict[str, Tensor] = {}
        labelled: dict[str, int] = {}
        features, found = self._forward_features(batch)
        for task, raw in found.items():
            targets = batch["targets"][task]
            losses = self.heads[task].loss(raw, targets)
            sums[task] = torch.stack(list(losses.values())).sum()
            labelled[task] = sum(target is not None for target in targets)
            if labelled[task] and (len(self.heads) > 1 or len(losses) > 1 or self.distillation is not None):
                for name, value in losses.items():
                    self.means.add(f"train/{task}/{name}", value, labelled[task])
        if len(self.heads) > 1:
            self.log_dict({f"train/{task}/weight": factor for task, factor in self.weigh.factors().items()})
        hint = torch.zeros((), device=self.device)
        if self.distillation is not None:
            sums, hint, curves = self.distillation(batch["image"], features, found, self.heads, sums)
            labelled = dict.fromkeys(labelled, len(batch["index"]))  # by the teacher
            for name, value in curves.items():
                self.means.add(name, value, len(batch["index"]))
        total = self.weigh(sums, [task for task, count in labelled.items() if count]) + hint
        if self.l1:
            total = total + self.l1 * sum(p.abs().sum() for p in self.parameters() if p.requires_grad and p.ndim > 1)
        self.log("train/loss_step", total.detach(), prog_bar=True)
        self.means.add("train/loss", total, len(batch["index"]))
        return total * self._window_scale(batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if not self.trainer.is_last_batch:
            return
        # Lightning steps no plateau schedule at the end of an epoch that a run went on within.
        self.trainer.fit_loop.restarting = False
        if self.trainer.world_size > 1:
            self.means.join(gather_ranks(self.trainer, self.means.state_dict()), self.device)
        self.log_dict(self.means.take(), on_step=False, on_epoch=True, batch_size=1)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        # The schedule owns the rates; the strategy's factor is on them for the length of this step alone.
        at = epoch + (batch_idx + 1) / int(self.trainer.num_training_batches)
        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] *= self.strategy.warmup(group["stage"], at)
        try:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        finally:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    def _window_scale(self, batch_idx: int) -> float:
        """Lightning divides by the whole accumulation window; the last one of an epoch may be shorter."""
        window, batches = self.trainer.accumulate_grad_batches, int(self.trainer.num_training_batches)
        short = batches % window
        return window / short if short and batch_idx >= batches - short else 1.0

    def on_validation_start(self) -> None:
        average_batchnorm(self.trainer, self)

    # ---- evaluation: losses and predictions from one backbone pass

    def outputs(self, batch: Batch) -> dict[str, tuple[Raw, list[Prediction]]]:
        """By task, the raw outputs and a prediction an image."""
        _, found = self._forward_features(batch)
        return {task: (raw, self.heads[task].decode(raw, batch["frame"])) for task, raw in found.items()}

    def _evaluate(self, batch: Batch) -> dict[str, Any]:
        predictions, sample_losses = {}, {}
        for task, (raw, found) in self.outputs(batch).items():
            predictions[task] = found
            sample_losses[task] = self.heads[task].sample_loss(raw, batch["targets"][task])
            self.scores.update(task, found, sample_losses[task], batch["truth"][task])
        return {"predictions": predictions, "losses": sample_losses}

    def _finish(self, split: str) -> None:
        computed = self.scores.compute()
        for task, found in computed.items():
            self.log_dict({f"{split}/{task}/{name}": v.float() for name, v in found.items() if v.numel() == 1})
        losses = {task: found["loss"] for task, found in computed.items()}
        self.log(f"{split}/loss", self.weigh(losses, list(losses)), prog_bar=split == "val")
        if len(self.heads) > 1:
            scores = [head.score(computed[task]).float() for task, head in self.heads.items()]
            self.log(f"{split}/score", torch.stack([score.to(self.device) for score in scores]).mean())

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        self._finish(self.split)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[tuple[str, dict[str, Any]]]:
        """``(path, {task: prediction})`` of every sample."""
        decoded = {task: found for task, (_, found) in self.outputs(batch).items()}
        return [(path, {task: found[i] for task, found in decoded.items()}) for i, path in enumerate(batch["path"])]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        loop = self.trainer.fit_loop
        batches, epoch = loop.epoch_loop.batch_progress.current.completed, loop.epoch_progress.current
        # 0 before the first step; an epoch counts when its last batch is done, whether or not it was validated.
        ended = batches >= self.trainer.num_training_batches
        checkpoint["visiontune"] = self.description | {"epochs": epoch.ready if ended else epoch.completed}
        checkpoint["epoch_sums"] = self.means.state_dict()
        if batches % self.trainer.accumulate_grad_batches and not ended:
            checkpoint["gradients"] = {n: p.grad for n, p in self.named_parameters() if p.grad is not None}
        if self.distillation is not None:
            checkpoint["projections"] = [p.detach() for p in self.distillation.parameters()]
        save_ranks(self.trainer, self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        restore_rank(self.trainer, checkpoint)  # before anything is loaded from it
        self.means.load_state_dict(checkpoint.get("epoch_sums", {}), self.device)
        self.gradients = checkpoint.get("gradients", {})
        if self.distillation is not None:
            for own, kept in zip(self.distillation.parameters(), checkpoint["projections"], strict=True):
                own.data.copy_(kept)
