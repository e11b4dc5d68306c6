"""What the network sees."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torchvision.utils import make_grid


class FirstBatch(L.Callback):
    """Shows the first training batch, augmented and mixed, as one image in TensorBoard."""

    def __init__(self, pictures: int = 16) -> None:
        self.pictures = pictures

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        logger = trainer.logger
        if trainer.global_step == 0 and batch_idx == 0 and isinstance(logger, TensorBoardLogger):
            images = batch["image"][: self.pictures].float().cpu()[:, :3]
            if "frozen" in batch:
                dataset = trainer.datamodule.dataset("train", augmented=True)  # type: ignore[attr-defined]
                shown = [dataset[(0, int(i))]["image"][:3] / 255 for i in batch["index"][: self.pictures]]
                images = torch.stack(shown)
            logger.experiment.add_image("first_batch", make_grid(images, nrow=8, pad_value=1.0), 0)
