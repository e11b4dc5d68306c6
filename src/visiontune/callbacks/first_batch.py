"""The first training batch as an image."""

from typing import Any

import lightning as L
import torch
from torchvision.utils import make_grid

from visiontune.loggers.log import log_image


class FirstBatch(L.Callback):
    """Logs the first training batch, augmented and mixed, as one image.

    Args:
        images: largest number of images to show.
    """

    def __init__(self, images: int = 16) -> None:
        self.images = images

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step or batch_idx or not trainer.loggers or not trainer.is_global_zero:
            return
        images = batch["image"][: self.images].float().cpu()[:, :3]
        if "frozen" in batch:  # the batch holds outputs of the frozen stages instead of pixels
            dataset = trainer.datamodule.dataset("train", augmented=True)  # type: ignore[attr-defined]
            rows = batch["index"][: self.images]
            images = torch.stack([dataset[(0, int(i))]["image"][:3] / 255 for i in rows])
        log_image(trainer.loggers, "first_batch", make_grid(images, nrow=8, pad_value=1.0), 0)
