"""The directory of a sweep."""

from pathlib import Path

from visiontune.errors import UserError
from visiontune.runs.output import check_output


def check_sweep_dir(sweep_dir: str, jobs: int) -> None:
    """Check that the runs of a new sweep can be created in its directory.

    Raises:
        UserError: it cannot be written, or one of its numbered directories is in use.
    """
    folder = check_output(Path(sweep_dir), key="sweep_dir or paths.logs")
    for number in range(jobs):
        path = folder / f"{number:03d}"
        if path.is_dir() and any(path.iterdir()):
            raise UserError(f"{path} already holds a run: write another sweep_dir=DIR")
