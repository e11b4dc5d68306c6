"""The number of devices, and so of ranks, that a run uses."""

import os

import torch
from omegaconf import DictConfig

from visiontune.errors import UserError


def count_devices(trainer: DictConfig) -> int:
    """`trainer.devices` as a number, 1 or more; -1 is all GPUs.

    Raises:
        UserError: the machine has fewer GPUs, or several devices need `trainer=ddp`.
    """
    devices, gpus = trainer.devices, torch.cuda.device_count()
    uses_gpus = trainer.accelerator == "gpu" or (trainer.accelerator == "auto" and gpus > 0)
    if uses_gpus and (devices > gpus or not gpus):
        raise UserError(
            f"trainer.devices={devices}: expected at most {gpus}, the GPUs of this machine; write trainer=cpu, or fewer"
        )
    devices = max(1, gpus) if devices == -1 else devices
    if not uses_gpus and devices > (most := max(16, os.cpu_count() or 1)):
        raise UserError(f"trainer.devices={devices}: expected at most {most} ranks on the CPU cores of this machine")
    if devices > 1 and trainer.strategy == "auto":
        raise UserError(f"trainer.devices={devices} needs trainer=ddp (GPUs) or trainer=ddp_cpu")
    return devices
