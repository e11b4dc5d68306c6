"""A run that is made from other runs, without training."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from visiontune.config.derive import derive
from visiontune.runs.directory import RunDirectory
from visiontune.runs.environment import environment
from visiontune.runs.files import write_json


def create_derived_run(output: Path, source: RunDirectory, cfg: DictConfig, overrides: Sequence[str]) -> RunDirectory:
    """Create a run directory with the config `cfg` and the splits of `source`, without checkpoints.

    Args:
        overrides: the command line of the run, which later steps of compress read.

    Raises:
        UserError: `output` is not free.
    """
    run = RunDirectory.create(output)
    write_json(run.environment, environment(cfg.seed, list(overrides)))
    shutil.copy(source.splits, run.splits)
    run.write_config(derive(cfg, {"run_dir": str(output)}))
    return run
