"""The config of a command line that nobody typed."""

from contextlib import nullcontext

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from visiontune.cli import config_dir


def train_config(overrides: list[str]) -> DictConfig:
    """What `visiontune train` would be given with these overrides; a user's `--config-dir` counts."""
    # Hydra is not there in a process of a launcher.
    inside = GlobalHydra.instance().is_initialized()
    with nullcontext() if inside else initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("train", overrides=overrides)
