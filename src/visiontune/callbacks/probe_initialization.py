"""Initialization of the heads by linear probes."""

from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device

from visiontune.models.heads.probeable import Probeable
from visiontune.runs.log import log


class ProbeInitialization(L.Callback):
    """Sets the heads to linear probes of the frozen backbone before the training.

    A random head would send large gradients into good features and distort them (Kumar et al. 2022,
    https://arxiv.org/abs/2202.10054).

    Args:
        max_samples: largest number of samples that the probe uses of a split, evenly spread over it.
    """

    def __init__(self, max_samples: int = 20_000) -> None:
        self.max_samples = max_samples

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.ckpt_path is None:
            self._fit(trainer, pl_module)

    def _fit(self, trainer: Any, module: Any) -> None:
        embeddings, targets = zip(*(self._embed(trainer, module, split) for split in ("train", "val")), strict=True)
        for task, head in module.heads.items():
            train, val = ((embedding, labels[task]) for embedding, labels in zip(embeddings, targets, strict=True))
            summary = head.fit_probe(train, val) if isinstance(head, Probeable) else None
            if summary and trainer.is_global_zero:
                log.info(f"probe of {task}: {summary}")
        for parameter in module.heads.parameters():  # the ranks' solutions of the same problem may differ in rounding
            parameter.data.copy_(trainer.strategy.broadcast(parameter.data, src=0))

    @torch.inference_mode()
    def _embed(self, trainer: Any, module: Any, split: str) -> tuple[torch.Tensor, dict[str, list]]:
        """Embeddings ``(N, D)`` of a split without augmentation, and its targets by task."""
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
