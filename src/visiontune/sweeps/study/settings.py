"""What was asked of a sweep, in its sweep.yaml."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from omegaconf import OmegaConf

from visiontune.errors import UserError
from visiontune.runs.files import write_atomically
from visiontune.runs.reading import read_yaml

FILE = "sweep.yaml"


@dataclass(frozen=True)
class Settings:
    """The command that started a sweep, and what every worker needs.

    Attributes:
        overrides: of that command.
        config_dir: its folder of `--config-dir`.
        working_directory: relative paths in the overrides start there.
        workers: number of jobs at the same time, on each machine.
        threads: CPU threads of each job, since other numbers of threads give other bits.
        devices: ranks of each job, the largest number if it varies.
        accelerator: `gpu` or `cpu`.
        fail_fast: stop the sweep when a job fails.
        max_hours: no job is started after this time of a command; None is no limit.
        max_retries: how often a job is resumed that the machine has stopped.
    """

    overrides: list[str]
    config_dir: str | None
    working_directory: str
    workers: int
    threads: int
    devices: int
    accelerator: str
    fail_fast: bool
    max_retries: int
    max_hours: float | None = None

    @classmethod
    def read(cls, sweep: Path) -> "Settings":
        """The settings in the directory of a sweep.

        Raises:
            UserError: it is not the directory of a sweep, or the file cannot be read.
        """
        path = sweep / FILE
        if not path.is_file():
            raise UserError(
                f"{sweep} is not a sweep directory (it has no {FILE}): write one that train -m made, such as "
                "logs/sweeps/2026-11-22_09-15-02"
            )
        values = OmegaConf.to_container(read_yaml(path))
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or sorted(map(str, values)) != sorted(names):
            raise UserError(f"{path}: expected the keys {', '.join(names)}")
        return cls(**values)  # type: ignore[arg-type]

    def write(self, sweep: Path) -> None:
        """Write the file of the directory `sweep`."""
        with write_atomically(sweep / FILE) as file:
            file.write(OmegaConf.to_yaml(OmegaConf.create(asdict(self))))
