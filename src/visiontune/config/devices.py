"""How many processes a run takes."""

import torch
from omegaconf import DictConfig

from visiontune.errors import UserError


def processes(cfg: DictConfig) -> int:
    """How many processes the trainer's devices ask for.

    Raises:
        UserError: no number, more than there are, or several devices without a strategy that uses them.
    """
    devices, gpus = cfg.trainer.devices, torch.cuda.device_count()
    if not isinstance(devices, int) or isinstance(devices, bool) or not (devices >= 1 or devices == -1):
        raise UserError(
            f"trainer.devices={devices}: write a number of processes, such as trainer.devices=2 (-1: all GPUs)"
        )
    if cfg.trainer.accelerator == "gpu" and (devices > gpus or not gpus):
        raise UserError(f"trainer.devices={devices} on gpu, but this machine has {gpus}: write trainer=cpu, or fewer")
    devices = max(1, gpus) if devices == -1 else devices
    if devices > 1 and cfg.trainer.strategy == "auto":
        raise UserError(f"trainer.devices={devices} needs trainer=ddp (GPUs) or trainer=ddp_cpu")
    return devices
