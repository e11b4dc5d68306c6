"""What was asked of a sweep, in its sweep.yaml."""

from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from visiontune.errors import UserError, one_line, some
from visiontune.runs.files import write_atomically
from visiontune.runs.reading import read_plain_yaml

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
        max_epochs: no job is started after all runs together have trained so many epochs; None is no limit.
        max_retries: how often a job is resumed that the machine has stopped.
        storage: the address of the database with the study, or a variable that has it; None is the journal.
        study: its name in the storage.
        pruner: the values of a `Pruner`; None trains all jobs to their end.
        keys: that this command or an earlier one varies.
        objectives: name -> `max` or `min`, see `find_objectives`; by default the objective of each run.
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
    max_epochs: int | None = None
    storage: str | None = None
    study: str = "sweep"
    pruner: dict[str, Any] | None = None
    keys: list[str] = field(default_factory=list)
    objectives: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, sweep: Path) -> "Settings":
        """The settings in the directory of a sweep. Keys with a default may be missing, as in older files.

        Raises:
            UserError: it is not the directory of a sweep, the file cannot be read, or a key or type is wrong.
        """
        path = sweep / FILE
        if not path.is_file():
            raise UserError(
                f"{sweep} is not a sweep directory (it has no {FILE}): write one that train -m made, such as "
                "logs/sweeps/2026-11-22_09-15-02"
            )
        values = read_plain_yaml(path)
        known = {item.name: item for item in fields(cls)}
        if unknown := [str(key) for key in values if key not in known]:
            raise UserError(f"{path}: unknown keys: {some(unknown)}; expected {', '.join(known)}")
        required = [name for name, item in known.items() if item.default is item.default_factory is MISSING]
        if missing := [name for name in required if name not in values]:
            raise UserError(f"{path}: missing keys: {some(missing)}")
        for name, value in values.items():
            kind: Any = known[name].type
            try:
                TypeAdapter(kind).validate_python(value, strict=True)
            except ValidationError:
                expected = kind.__name__ if isinstance(kind, type) else kind
                raise UserError(f"{path}: {name}={one_line(str(value), 60)}: expected {expected}") from None
        return cls(**values)

    def write(self, sweep: Path) -> None:
        """Write the file of the directory `sweep`."""
        with write_atomically(sweep / FILE) as file:
            yaml.safe_dump(asdict(self), file, sort_keys=False, allow_unicode=True)
