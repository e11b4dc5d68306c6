"""The table of a sweep, written when its last job has finished."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepTable(Callback):
    """Hydra calls it in the process that launched the sweep, with any launcher."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from visiontune.sweeps.comparison import (
            compare,  # Hydra makes this object for every verb, and none should wait for it
        )

        compare([Path(config.sweep_dir)])
