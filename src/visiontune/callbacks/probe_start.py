"""Before the first step: begin at the linear probe, and measure it."""

from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device

from visiontune.callbacks.history import History
from visiontune.models.heads.base import Probe
from visiontune.runs.log import log


class ProbeStart(L.Callback):
    """Sets the heads to the linear probes of the frozen backbone.

    Fine-tuning that begins there cannot distort the features while a random head settles (Kumar et al. 2022,
    arXiv:2202.10054).

    Args:
        max_samples: that the probe sees of a split at most, evenly spread over it.
    """

    def __init__(self, max_samples: int = 20_000) -> None:
        self.max_samples = max_samples

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.ckpt_path is None:
            self._fit(trainer, pl_module)

    def _fit(self, trainer: Any, module: Any) -> None:
        train, val = (self._embed(trainer, module, split) for split in ("train", "val"))
        for task, head in module.heads.items():
            line = head.fit_probe(_of(train, task), _of(val, task))
            if line and trainer.is_global_zero:
                log.info(f"probe of {task}: {line}")
        for parameter in module.heads.parameters():  # every rank solved the same problem; make it the same bits
            parameter.data.copy_(trainer.strategy.broadcast(parameter.data, src=0))

    @torch.inference_mode()
    def _embed(self, trainer: Any, module: Any, split: str) -> tuple[torch.Tensor, dict[str, list]]:
        """Embeddings ``(N, D)`` of a split as evaluation sees it, and its targets by task."""
        embeddings: list[torch.Tensor] = []
        targets: dict[str, list] = {task: [] for task in module.heads}
        module.eval()
        for batch in trainer.datamodule.eval_loader(split, at_most=self.max_samples):
            batch = trainer.datamodule.to_network(move_data_to_device(batch, module.device))
            with trainer.precision_plugin.forward_context():
                embeddings.append(module.backbone(batch["image"]).embedding.float())
            for task, values in targets.items():
                values.extend(batch["targets"][task])
        module.train()
        return torch.cat(embeddings), targets


class FirstValidation(L.Callback):
    """Validates before the first step, so that the start is the first candidate for `best.ckpt`.

    With `ProbeStart` a run can therefore not end below its own probe on the validation split.
    """

    def __init__(self, history: History) -> None:
        self.history = history

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.ckpt_path is not None:
            return
        # What the training epoch loop itself does around a validation.
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True
        self.history.before_training(trainer)


def _of(part: tuple[torch.Tensor, dict[str, list]], task: str) -> Probe:
    embeddings, targets = part
    return embeddings, targets[task]
