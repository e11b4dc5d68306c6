"""Before the first step: begin at the linear probe, and measure it."""

from typing import Any

import lightning as L
import torch

from visiontune.callbacks.history import History
from visiontune.heads.base import Probe
from visiontune.runs.log import log


class Start(L.Callback):
    """Fits the heads' linear probes on the frozen backbone and validates, so that the probe is the first best epoch.

    Fine-tuning that begins at the probe's solution cannot distort the features while a random head settles (Kumar et
    al. 2022, arXiv:2202.10054), and since the probe is a candidate for `best.ckpt`, the run cannot end below it on
    the validation split.

    Args:
        probe: False only validates.
        max_samples: of the training split that the probe sees at most.
    """

    def __init__(self, history: History, probe: bool = True, max_samples: int = 20_000) -> None:
        self.history = history
        self.probe = probe
        self.max_samples = max_samples

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.ckpt_path is not None:
            return
        if self.probe:
            self._fit_probes(trainer, pl_module)
        # What the training epoch loop itself does around a validation.
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True
        self.history.before_training(trainer)

    def _fit_probes(self, trainer: Any, module: Any) -> None:
        loaders = {split: trainer.datamodule.eval_loader(split) for split in ("train", "val")}
        train, val = (self._embed(trainer, module, loader) for loader in loaders.values())
        for task, head in module.heads.items():
            line = head.fit_probe(_of(train, task), _of(val, task))
            if line and trainer.is_global_zero:
                log.info(f"probe of {task}: {line}")
        for parameter in module.heads.parameters():  # every rank solved the same problem; make it the same bits
            parameter.data.copy_(trainer.strategy.broadcast(parameter.data, src=0))

    @torch.inference_mode()
    def _embed(self, trainer: Any, module: Any, loader: Any) -> tuple[torch.Tensor, dict[str, list]]:
        embeddings: list[torch.Tensor] = []
        targets: dict[str, list] = {task: [] for task in module.heads}
        seen = 0
        module.eval()
        for batch in loader:
            batch = trainer.strategy.batch_to_device(batch)
            batch = trainer.datamodule.on_after_batch_transfer(batch, 0)
            with trainer.precision_plugin.forward_context():
                embeddings.append(module.backbone(batch["image"]).embedding.float())
            for task, values in targets.items():
                values.extend(batch["targets"][task])
            seen += len(batch["index"])
            if seen >= self.max_samples:
                break
        module.train()
        return torch.cat(embeddings), targets


def _of(part: tuple[torch.Tensor, dict[str, list]], task: str) -> Probe:
    embeddings, targets = part
    return embeddings, targets[task]
