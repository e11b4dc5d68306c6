"""The table of a sweep, written when its last job has finished."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepTable(Callback):
    """Writes sweep.csv. Hydra calls it in the process that launched the sweep, with any launcher."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        # Hydra builds this object for every verb, and this import takes time.
        from visiontune.sweeps.comparison import compare

        compare([Path(config.sweep_dir)])
