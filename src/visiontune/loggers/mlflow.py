"""MLflow: a server, or a local SQLite file."""

import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch.loggers as lightning_loggers
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from visiontune.errors import UserError
from visiontune.loggers.base import ArtifactLogger, ImageLogger, LoggedRun
from visiontune.loggers.sent import SentRecords

SQLITE = "sqlite:///"
SQLITE_ERRORS = {"database or disk is full": errno.ENOSPC, "attempt to write a readonly database": errno.EROFS}
PARAMS_PER_REQUEST, LONGEST_PARAM, LONGEST_NAME = 100, 6000, 240  # the limits of MLflow


class MLFlowLogger(lightning_loggers.MLFlowLogger, ImageLogger, ArtifactLogger):
    """Lightning's MLFlowLogger, with one MLflow run for each run directory: its id is in `RUN/loggers/mlflow.json`.

    Args:
        tracking_uri: a server, or `sqlite:///FILE`.
        artifact_location: where a new experiment stores images and files; by default the server decides, and with a
            SQLite file it is the folder of the same name.
        log_artifacts: store the run's files after the run.
    """

    package = "mlflow"

    def __init__(
        self,
        run: LoggedRun,
        experiment_name: str,
        tracking_uri: str,
        artifact_location: str | None = None,
        log_artifacts: bool = False,
    ) -> None:
        self.run = run
        self.log_artifacts = log_artifacts
        self.sent = SentRecords(run.sent_file("mlflow"))
        self.names: dict[str, str] = {}  # name -> name on the server
        self.database: Path | None = None
        if tracking_uri.startswith(SQLITE):  # a relative path would be another file in another working directory
            self.database = Path(tracking_uri.removeprefix(SQLITE)).expanduser().resolve()
            tracking_uri = f"{SQLITE}{self.database}"
            artifact_location = artifact_location or str(self.database.with_suffix(""))
        tracking_uri = run.read("mlflow").get("tracking_uri", tracking_uri)
        tags = dict.fromkeys(run.tags, "true") | {"run_dir": str(run.path)}
        tags |= {"mlflow.note.content": run.note} if run.note else {}
        tags |= {"sweep": run.group} if run.group else {}
        with self._setup():
            super().__init__(
                experiment_name=experiment_name,
                run_name=run.name,
                tracking_uri=tracking_uri,
                tags=tags,
                artifact_location=artifact_location,
            )

    @classmethod
    def check(cls, tracking_uri: str, **options: Any) -> None:
        """Check the arguments before the run begins.

        Raises:
            UserError: `tracking_uri` is not an address.
        """
        if "://" not in (tracking_uri or "") and tracking_uri != "databricks":
            raise UserError(
                f"logger.mlflow.tracking_uri={tracking_uri or 'null'}: expected an address, such as "
                f"http://localhost:5000 or {SQLITE}logs/mlflow.db"
            )

    @property
    def experiment(self) -> Any:
        """The MlflowClient; the first access begins or resumes the run."""
        if self._initialized:
            return super().experiment
        self._run_id = self.run.read("mlflow").get("run_id")
        is_resumed = self._run_id is not None
        with self._setup():
            client = super().experiment
        if is_resumed:
            client.update_run(self._run_id, status="RUNNING")
        self.run.write("mlflow", {"run_id": self._run_id, "tracking_uri": self._tracking_uri})
        return client

    @contextmanager
    def _setup(self) -> Iterator[None]:
        """Let no other job of a sweep create tables or the experiment in the same SQLite file within the block."""
        if self.database is None:
            yield
            return
        self.database.parent.mkdir(parents=True, exist_ok=True)
        with self.database.with_name(f"{self.database.name}.lock").open("a") as file, self._named_errors():
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Raise an error of a full or read-only disk as an OSError that names the SQLite file."""
        printer = logging.getLogger("mlflow.store.db.utils")  # it prints the traceback of an error, and raises it
        before, printer.disabled = printer.disabled, self.database is not None
        try:
            yield
        except Exception as error:
            number = next((number for text, number in SQLITE_ERRORS.items() if text in str(error)), None)
            if number is None or self.database is None:
                raise
            raise OSError(number, os.strerror(number), str(self.database)) from error
        finally:
            printer.disabled = before

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        step = step or 0
        values = {self._unique_name(name): float(value) for name, value in metrics.items()}
        new = {name: value for name, value in values.items() if self.sent.is_new(name, step)}
        if new:
            with self._named_errors():
                super().log_metrics(new, step)
            self.sent.add(new, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        client = self.experiment
        existing = client.get_run(self.run_id).data.params  # a resumed run cannot change them
        texts = {clean(name): str(value)[:LONGEST_PARAM] for name, value in dict(params).items()}
        new = [(name, text) for name, text in texts.items() if name not in existing]
        for i in range(0, len(new), PARAMS_PER_REQUEST):
            from mlflow.entities import Param

            batch = [Param(name, text) for name, text in new[i : i + PARAMS_PER_REQUEST]]
            with self._named_errors():
                client.log_batch(self.run_id, params=batch)

    @rank_zero_only
    def add_image(self, name: str, image: Tensor, step: int) -> None:
        name = self._unique_name(name)
        if self.sent.is_new(f"image {name}", step):
            with self._named_errors():
                self.experiment.log_image(self.run_id, image.permute(1, 2, 0).numpy(), key=name, step=step)
            self.sent.add([f"image {name}"], step)

    @rank_zero_only
    def add_files(self, folder: Path, files: list[str]) -> None:
        for file in files:
            parent = Path(file).parent.as_posix()
            self.experiment.log_artifact(self.run_id, str(folder / file), None if parent == "." else parent)

    def _unique_name(self, name: str) -> str:
        """`clean(name)`, or `NAME_2` if another name became the same."""
        if name not in self.names:
            cleaned = unique = clean(name)
            number = 1
            while unique in self.names.values():
                number += 1
                unique = f"{cleaned}_{number}"
            self.names[name] = unique
        return self.names[name]

    def finalize(self, status: str = "success") -> None:
        """`close` ends the run, after the evaluation."""

    def close(self, status: str) -> None:
        if self._initialized:
            final = {"success": "FINISHED", "failed": "FAILED"}.get(status, "KILLED")
            with self._named_errors():
                self.experiment.set_terminated(self.run_id, final)


def clean(name: str) -> str:
    """Replace the characters that MLflow does not allow in a name by `_`, and parts such as `..` that it refuses."""
    parts = re.sub(r"[^\w/. -]", "_", name, flags=re.ASCII)[:LONGEST_NAME].split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)
