"""The directory of a sweep."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from visiontune.errors import UserError
from visiontune.runs.output import check_output
from visiontune.training.space import check_sweep_space


def check_sweep_dir(folder: Path, configs: Sequence[DictConfig]) -> None:
    """Check that the runs of a new sweep can be created in its directory, and that its disk holds their checkpoints.

    Args:
        configs: the composed config of each job.

    Raises:
        UserError: it cannot be written, one of its numbered directories is in use, or the disk has too little space.
    """
    folder = check_output(folder, key="sweep_dir or paths.logs")
    for number in range(len(configs)):
        path = folder / f"{number:03d}"
        if path.is_dir() and any(path.iterdir()):
            raise UserError(f"{path} already holds a run: write another sweep_dir=DIR")
    check_sweep_space(configs, folder.absolute())
