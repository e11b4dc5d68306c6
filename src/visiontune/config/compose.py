"""Compose a config from Python."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from visiontune.nodes import UNCHECKED

# Without a version, Hydra 1.3 behaves as 1.1 does. Hydra 1.4 has one behavior and deprecates the argument.
INITIALIZE: dict[str, Any] = {"version_base": "1.3"} if UNCHECKED is None else {}
# `nodes.WHITELIST`, for `hydra/job_logging` and `hydra.callbacks` of the command line.
MAIN: dict[str, Any] = INITIALIZE if UNCHECKED is None else {"execution_whitelist": UNCHECKED}


def config_dir() -> Path:
    """The folder of the shipped configs: `configs/` of a checkout, or its copy inside an installed wheel."""
    package = Path(__file__).parents[1]
    checkout = package.parents[1] / "configs"
    return checkout if checkout.is_dir() else package / "configs"


@contextmanager
def initialized(user_configs: Path | None) -> Iterator[None]:
    """Initialize Hydra for `compose` within the block.

    Args:
        user_configs: the folder of `--config-dir`.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), **INITIALIZE):
        if user_configs is not None:
            search_path = create_config_search_path(str(config_dir()))
            anchor = SearchPathQuery(provider="schema")  # Hydra's entry must be the last
            search_path.prepend("command-line", f"file://{user_configs}", anchor=anchor)
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2("visiontune", search_path)
        yield


def train_config(overrides: list[str]) -> DictConfig:
    """Compose the config of `visiontune train` with these overrides; a user's `--config-dir` is included."""
    # Hydra is not initialized in the worker processes of a launcher, nor in Python code.
    is_initialized = GlobalHydra.instance().is_initialized()
    with nullcontext() if is_initialized else initialized(None):
        return compose("train", overrides=overrides)
