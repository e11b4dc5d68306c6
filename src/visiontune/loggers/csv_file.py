"""Scalars in one CSV file."""

import csv
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import yaml
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from visiontune.loggers.base import LoggedRun
from visiontune.runs.files import append, write_atomically


class CSVLogger(Logger):
    """Appends a row `step,name,value` for each scalar to `RUN/csv/scalars.csv`; hyper-parameters go to `hparams.yaml`.

    Lightning's `CSVLogger` deletes the file when a run resumes, and rewrites it for every new name. This file only
    grows, so a resumed run can cut it back to where its checkpoint was written.
    """

    def __init__(self, run: LoggedRun) -> None:
        super().__init__()
        self.folder = run.path / "csv"

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "scalars.csv"
        with append(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            if not file.tell():
                writer.writerow(("step", "name", "value"))
            writer.writerows(("" if step is None else step, name, float(value)) for name, value in metrics.items())

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self.folder.mkdir(exist_ok=True)
        values = vars(params) if isinstance(params, Namespace) else dict(params)
        with write_atomically(self.folder / "hparams.yaml") as file:
            file.write(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
