"""Compose a config from Python."""

from contextlib import nullcontext
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig


def config_dir() -> Path:
    """The folder of the shipped configs: `configs/` of a checkout, or its copy inside an installed wheel."""
    package = Path(__file__).parents[1]
    checkout = package.parents[1] / "configs"
    return checkout if checkout.is_dir() else package / "configs"


def train_config(overrides: list[str]) -> DictConfig:
    """Compose the config of `visiontune train` with these overrides; a user's `--config-dir` is included."""
    # Hydra is not initialized in the worker processes of a launcher, nor in Python code.
    is_initialized = GlobalHydra.instance().is_initialized()
    with nullcontext() if is_initialized else initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("train", overrides=overrides)
