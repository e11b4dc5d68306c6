"""Steps whose loss or gradient is not finite: stop the run, or skip them."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from visiontune.callbacks.quantization_aware import QuantizationAware
from visiontune.data.targets import IGNORE, LabelMap
from visiontune.errors import RunError, some
from visiontune.models.distributed import gather_ranks
from visiontune.models.step_seed import seed_step
from visiontune.runs.log import log

SHOWN = 8  # paths in a message


class NonFinite(L.Callback):
    """Stops the run in a step whose loss or gradient is not finite, or skips such steps.

    A loss that is not finite makes the whole gradient NaN, on every rank. One norm per optimizer step therefore finds
    both, and all ranks decide the same. A skipped step changes neither the weights nor the optimizer, the average,
    BatchNorm statistics or ranges of quantization; the schedule advances. (Batches of the same accumulation window with
    a finite loss count in these statistics.) With `precision=16-mixed`, the GradScaler itself skips steps with a finite
    loss and an infinite gradient, until its scale fits.

    A validation with a loss that is not finite, or weights that are not finite after it, stop the run as well. With
    `skip` such a loss is a warning.

    Args:
        skip: skip and count the steps instead of stopping the run.

    Raises:
        RunError: the run has stopped, or an epoch had no other steps.
    """

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self.skipped = self.skipped_in_epoch = 0
        self.skipped_step: int | None = None
        self.skips_batch = False  # whether the step after the current batch is skipped
        self.buffers: list[Tensor] = []  # before the batch, such as BatchNorm statistics
        self.batch: Any = None
        # Of each batch of the accumulation window: paths, loss of each task, total loss.
        self.window: list[tuple[list[str], dict[str, Tensor], Tensor]] = []
        self.invalid: list[tuple[str, str]] = []  # task and path of validation samples

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batch = batch
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.window.clear()
        self.skips_batch = False
        if self.skip:
            self.buffers = [buffer.clone() for buffer in _buffers(trainer, pl_module)]

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
        total = loss.detach().clone()
        loss.mul_(1 + (total - total))  # times 1, or times NaN
        self.window.append((self.batch["path"], pl_module.losses, total))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        if self.skipped_step == trainer.global_step:  # the second pass of SAM
            optimizer.zero_grad()
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients or get_total_norm(gradients).isfinite() or self._is_skipped_by_scaler(trainer):
            return
        step = f"step {trainer.global_step + 1} (epoch {trainer.current_epoch + 1})"
        problem = self._describe(trainer, pl_module)
        if not self.skip:
            raise RunError(f"{step}: {problem}. {self._advice(trainer, optimizer)}")
        optimizer.zero_grad()  # optimizers leave parameters without a gradient as they are
        self.skipped_step, self.skips_batch = trainer.global_step, True
        self.skipped += 1
        self.skipped_in_epoch += 1
        if trainer.is_global_zero and (self.skipped <= 10 or self.skipped.bit_count() == 1):
            log.warning(f"warning: {step} is skipped ({self.skipped} so far): {problem}")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.skip and (self.skips_batch or not all(total.isfinite() for *_, total in self.window[-1:])):
            for buffer, before in zip(_buffers(trainer, pl_module), self.buffers, strict=True):
                buffer.copy_(before)
        if self.skip and trainer.is_last_batch:
            pl_module.log("train/skipped_steps", float(self.skipped), on_step=False, on_epoch=True, batch_size=1)
        self.batch = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.skipped_in_epoch = 0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        steps = math.ceil(int(trainer.num_training_batches) / trainer.accumulate_grad_batches)
        if self.skipped_in_epoch >= steps:
            raise RunError(
                f"epoch {trainer.current_epoch + 1}: all {steps} steps were skipped, since no loss or gradient was "
                f"finite. {self._advice(trainer, trainer.optimizers[0])}"
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.skipped and trainer.is_global_zero:
            log.warning(f"on_nonfinite=skip: {self.skipped} of {trainer.global_step} steps were skipped")

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for task, losses in outputs["losses"].items():
            if losses.isfinite().all():
                continue
            for path, target, loss in zip(batch["path"], batch["truth"][task], losses.tolist(), strict=True):
                if math.isinf(loss) or (math.isnan(loss) and _is_known(target)):
                    self.invalid.append((task, path))

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        invalid = [pair for pairs in gather_ranks(trainer, self.invalid) for pair in pairs]
        self.invalid = []
        epoch = trainer.current_epoch + 1
        when = f"the validation after epoch {epoch}" if trainer.global_step else "the validation before the first step"
        if trainer.global_step and (stages := _broken_stages(pl_module)):
            advice = self._advice(trainer, trainer.optimizers[0])
            raise RunError(f"after epoch {epoch} the weights of {some(stages)} are not finite. {advice}")
        if not invalid:
            return
        tasks = ", ".join(dict.fromkeys(task for task, _ in invalid))
        paths = list(dict.fromkeys(path for _, path in invalid))
        problem = f"{when}: the loss of {tasks} is not finite for {_count(paths)}"
        if not self.skip:
            raise RunError(f"{problem}. {self._advice(trainer, trainer.optimizers[0])}")
        if trainer.is_global_zero:
            log.warning(f"warning: {problem}")

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "skipped_in_epoch": self.skipped_in_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.skipped_in_epoch = state_dict["skipped"], state_dict["skipped_in_epoch"]

    def _is_skipped_by_scaler(self, trainer: Any) -> bool:
        """Whether GradScaler skips the step and lowers its scale. At a scale of 1, the gradient itself is infinite."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is None or scaler.get_scale() <= 1:
            return False
        return trainer.strategy.reduce_boolean_decision(all(bool(total.isfinite()) for *_, total in self.window))

    def _describe(self, trainer: L.Trainer, module: Any) -> str:
        """What is not finite in the window, and the paths of the samples; all ranks must call this together."""
        broken = [(paths, losses) for paths, losses, total in self.window if not total.isfinite()]
        tasks = {task for _, losses in broken for task, loss in losses.items() if not loss.isfinite()}
        paths = [path for paths, _ in broken for path in paths]
        ranks = gather_ranks(trainer, (bool(broken), tasks, paths))
        if not any(is_broken for is_broken, *_ in ranks):
            paths = [path for batch_paths, *_ in self.window for path in batch_paths]
            all_paths = [path for rank_paths in gather_ranks(trainer, paths) for path in rank_paths]
            return f"the gradient is not finite, and the loss is. The batch: {_count(all_paths)}"
        suspects = gather_ranks(trainer, _suspects(trainer, module, self.batch))
        first = [path for rank_suspects in suspects for path in rank_suspects]
        all_paths = [path for *_, rank_paths in ranks for path in rank_paths]
        tasks = set().union(*(rank_tasks for _, rank_tasks, _ in ranks))
        name = f"the loss of {', '.join(sorted(tasks))}" if tasks else "the sum of the losses"
        which = f"; by itself not finite: {_count(first)}" if len(first) < len(all_paths) and first else ""
        return f"{name} is not finite. The batch: {_count([*first, *all_paths])}{which}"

    def _advice(self, trainer: Any, optimizer: Any) -> str:
        lr = max(group["lr"] for group in optimizer.param_groups)
        clip = "" if trainer.gradient_clip_val else " trainer.gradient_clip_val=1,"
        half = "" if trainer.precision == "32-true" else " trainer.precision=32-true,"
        skip = "" if self.skip else "; on_nonfinite=skip skips such steps"
        return f"Try a lower optimizer.lr (it is {lr:.3g} now),{clip}{half} or check these images and targets{skip}"


def _buffers(trainer: Any, module: Any) -> list[Tensor]:
    """What a forward pass in training may change: BatchNorm statistics, and the ranges of quantization."""
    callbacks = [callback for callback in trainer.callbacks if isinstance(callback, QuantizationAware)]
    return [*module.buffers(), *(buffer for callback in callbacks for buffer in callback.buffers())]


@torch.no_grad()
def _suspects(trainer: Any, module: Any, batch: Any) -> list[str]:
    """The paths of the samples whose input or loss is not finite by itself."""
    seed_step(module.seed, module.current_epoch, trainer.fit_loop.batch_idx, module.global_rank)
    rows: set[int] = set()
    # With a cache of frozen stages, their outputs are the input.
    for values in batch["frozen"].values.values() if "frozen" in batch else [batch["image"]]:
        finite = values.flatten(1).isfinite().all(1).tolist()
        rows |= {i for i, is_finite in enumerate(finite) if not is_finite}
    if not rows:
        with trainer.precision_plugin.forward_context():
            _, outputs = module._forward_features(batch)
            for task, raw in outputs.items():
                targets = batch["targets"][task]
                losses = module.heads[task].sample_loss(raw, targets).tolist()
                rows |= {i for i, loss in enumerate(losses) if not math.isfinite(loss) and _is_known(targets[i])}
    return [batch["path"][i] for i in sorted(rows)]


def _is_known(target: Any) -> bool:
    """Whether a target has a known value; a loss is NaN for a target without one."""
    if isinstance(target, LabelMap):
        return not bool(target.eq(IGNORE).all())
    if isinstance(target, Tensor) and target.is_floating_point():
        return bool((~target.isnan()).any())
    return target is not None


def _broken_stages(module: Any) -> list[str]:
    """The names of the stages with a weight that is not finite."""
    stages = [(name, list(stage.parameters())) for name, stage in module.stages()]
    if get_total_norm([p.detach() for _, part in stages for p in part]).isfinite():
        return []
    return [name for name, part in stages if not all(bool(p.isfinite().all()) for p in part)]


def _count(paths: list[str]) -> str:
    """The first paths, each once, and the number of all."""
    unique = list(dict.fromkeys(paths))
    return some(unique, SHOWN) + (f" ({len(unique)} samples)" if len(unique) > SHOWN else "")
