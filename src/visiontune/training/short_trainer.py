"""A Trainer that measures a few steps of a run and writes nothing."""

from collections.abc import Sequence
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf

from visiontune.nodes import build
from visiontune.training.build import TRAINER
from visiontune.training.cluster import own_processes


def build_short_trainer(cfg: DictConfig, callbacks: Sequence[L.Callback], **limits: int) -> L.Trainer:
    """Build a Trainer with the settings of a run for one device of this process, without loggers and checkpoints.

    Args:
        cfg: resolved.
        limits: arguments of the Trainer such as `max_epochs`, in place of those of the run.
    """
    settings: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    settings |= {"strategy": "auto", "devices": 1, **limits}
    trainer: L.Trainer = build(settings, "trainer", TRAINER, L.Trainer, partial=True)(
        callbacks=list(callbacks),
        plugins=own_processes(),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    return trainer
