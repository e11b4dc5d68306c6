"""The sweeper of visiontune, which Hydra finds in this namespace package (it has no `__init__.py`)."""

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StudySweeper(Sweeper):
    """Runs a sweep as an Optuna study; see `visiontune.sweeps`."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        """Args:
        params: key -> values that the sweep varies, in the grammar of the command line.
        """
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def sweep(self, arguments: list[str]) -> Any:
        from visiontune.sweeps.start import start  # Hydra imports this file for every command
        from visiontune.work import train

        return start(self.config, arguments, train)


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="visiontune",
    node={"_target_": f"{__name__}.{StudySweeper.__name__}", "params": None},
    provider="visiontune",
)
