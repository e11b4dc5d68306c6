"""The directory of one run."""

import hashlib
import os
import secrets
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from visiontune import signals
from visiontune.errors import UserError, shell_override
from visiontune.runs.files import write_atomically, write_bytes, write_json
from visiontune.runs.lock import is_locked, locked
from visiontune.runs.log import log
from visiontune.runs.output import check_output
from visiontune.runs.reading import check_files, read_json, read_yaml
from visiontune.runs.records import read_metrics, read_overrides, read_status

RESERVE_BYTES = 65_536


class RunDirectory:
    """The paths of one run's files. Their names are a contract: other tools read them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.status = path / "status.json"
        self.splits = path / "splits.csv"
        self.history = path / "metrics.csv"
        self.metrics = path / "metrics.json"
        self.predictions = path / "predictions.csv"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.report = path / "report"
        self.exports = path / "export"
        self.log = path / "train.log"

    @classmethod
    def create(cls, path: Path) -> "RunDirectory":
        """Create `path`, which must not exist or must be empty: two runs never share a directory.

        Raises:
            UserError: the directory belongs to another run, or cannot be written.
        """
        cls.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / ".claim").touch(exist_ok=False)  # only one of two processes can create it
        except FileExistsError:
            cls.check_free(path)
            raise
        except OSError as error:
            raise UserError(
                f"cannot write to {path}: {error.strerror}; write run_dir=DIR or paths.logs=DIR with a folder that "
                "you may write to"
            ) from None
        run = cls(path.resolve())
        for folder in (run.checkpoints, run.report):
            folder.mkdir()
        return run

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Check that a new run can be created at `path`; nothing is written.

        Raises:
            UserError: as `create`.
        """
        entries = os.listdir(path) if os.path.isdir(path) and os.access(path, os.R_OK) else []
        resume = shell_override("run", path)
        if "config.yaml" in entries:
            raise UserError(f"{path} already holds a run: write another run_dir=DIR, or resume the run with {resume}")
        if ".claim" in entries:
            raise UserError(
                f"{path} belongs to a run that has not begun training: if that run was killed, delete {path} and "
                "start it again, or write another run_dir=DIR"
            )
        if entries:
            raise UserError(f"{path} is not empty: write another run_dir=DIR, or resume the run in it with {resume}")
        check_output(path, key="run_dir or paths.logs")

    @classmethod
    def new(cls, logs: Path, name: str) -> "RunDirectory":
        """Create a new directory `logs/name/TIME-ID`."""
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        path = logs / name / f"{stamp}-{secrets.token_hex(2)}"
        # Of 40 runs that begin in the same second, two have the same name with a probability of 1%.
        return cls.new(logs, name) if path.exists() else cls.create(path)

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """An existing run.

        Raises:
            UserError: there is no run at `path`.
        """
        if not str(path).strip():
            raise UserError(
                "run=: expected a run directory, got nothing; write run=logs/digits/2026-11-22_09-15-02-k3f9"
            )
        run = cls(Path(path).expanduser().resolve())
        if not run.config.is_file() and (run.path / ".claim").is_file() and not run.status.is_file():
            raise UserError(
                f"{path} cannot be resumed: the run was stopped before it had written its config.yaml. Delete {path} "
                "and start the run again with its command"
            )
        if not run.config.is_file():
            raise UserError(
                f"{path} is not a run directory (it has no config.yaml): write one that train printed, such as "
                "logs/digits/2026-11-22_09-15-02-k3f9"
            )
        check_files(run.status, run.environment, run.splits, run.history, run.metrics, run.predictions)
        return run

    def read_config(self) -> DictConfig:
        """The config, with its references resolved; see `read_yaml`."""
        return read_yaml(self.config)

    def write_config(self, cfg: DictConfig) -> None:
        with write_atomically(self.config) as file:
            file.write(OmegaConf.to_yaml(cfg, resolve=True))

    def read_status(self) -> dict[str, Any]:
        """The content of status.json; a running one that no process holds is `stopped`, as after `kill -9`."""
        if not self.status.is_file():
            return {"status": "unknown"}
        content = read_status(self.status)
        if content["status"] == "running" and not is_locked(self.path / ".claim"):
            content["status"] = "stopped"
        return content

    def read_environment(self) -> dict[str, Any]:
        """The content of environment.json; empty if there is none."""
        return read_json(self.environment) if self.environment.is_file() else {}

    def read_overrides(self) -> list[str]:
        """The overrides of the command line that started the run."""
        return read_overrides(self.environment) if self.environment.is_file() else []

    def read_metrics(self) -> dict[str, float]:
        """The content of metrics.json; empty if there is none."""
        return read_metrics(self.metrics) if self.metrics.is_file() else {}

    @property
    def finished(self) -> bool:
        """Whether the run has trained all its epochs and written its results."""
        return self.read_status()["status"] == "finished"

    def checkpoint(self, which: str) -> Path:
        """The path of a checkpoint.

        Args:
            which: "best", "last", "start" or a path.

        Raises:
            UserError: there is no such file.
        """
        path = self.checkpoints / f"{which}.ckpt" if which in ("best", "last", "start") else Path(which).expanduser()
        if not path.is_file():
            problem = "is not a file" if path.exists() else "does not exist"
            raise UserError(
                f"{path} {problem}: write checkpoint=best, checkpoint=last or the path of a checkpoint file"
            )
        return path

    def digest(self, which: str = "best") -> str:
        """The SHA-256 of a checkpoint, which tells it from a later one of the same name."""
        with self.checkpoint(which).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let no other process train or compress this run within the block.

        The lock belongs to the process: its data-loader workers do not inherit it, and it ends when the process ends or
        is killed. The process may lock the run again within the block; the end of the inner block ends the lock.

        Raises:
            UserError: another process holds the lock, or the directory cannot be written.
        """
        with ExitStack() as stack:
            try:
                claim = stack.enter_context((self.path / ".claim").open("a"))
            except OSError as error:
                raise UserError(
                    f"cannot write to {self.path}: {error.strerror}; change its permissions, or copy the run to a "
                    "folder that you may write to"
                ) from None
            try:
                stack.enter_context(locked(claim))
            except (BlockingIOError, PermissionError):
                raise UserError(
                    f"another process is using {self.path} (its process id is in status.json): wait until it has "
                    "finished, or stop it"
                ) from None
            except OSError as error:
                log.info(
                    f"note: {self.path} cannot be locked ({error.strerror}): do not resume it twice at the same time"
                )
            yield

    @contextmanager
    def running(self) -> Iterator[dict[str, Any]]:
        """Lock the run and write status.json: first "running", then "finished", "failed" or "interrupted".

        Yields:
            A dictionary whose values are written to status.json when the run has finished.

        Raises:
            UserError: as `lock`.
        """
        started = time.time()
        outcome: dict[str, Any] = {}
        reserve = self.path / ".reserve"  # room for status.json on a full disk
        with self.lock():
            try:
                self._write_status("running", started)
                write_bytes(reserve, os.urandom(RESERVE_BYTES))
                yield outcome
                signals.check()
                reserve.unlink(missing_ok=True)
                self._write_status("finished", started, outcome=outcome)
            except BaseException as error:
                interrupted = isinstance(error, signals.Interrupted | KeyboardInterrupt | SystemExit)
                with suppress(OSError):  # the message of `error` says enough; without a process the run is `stopped`
                    reserve.unlink(missing_ok=True)
                    self._write_status("interrupted" if interrupted else "failed", started, error)
                raise

    def _write_status(
        self, status: str, started: float, error: BaseException | None = None, outcome: dict[str, Any] | None = None
    ) -> None:
        value: dict[str, Any] = {"status": status, "started": started, "updated": time.time(), "pid": os.getpid()}
        value |= outcome or {}
        if error is not None:
            value["error"] = f"{type(error).__name__}: {error}"
            if isinstance(error, signals.Interrupted) and not isinstance(error, signals.Paused):
                value["signal"] = str(error)
            value["traceback"] = "".join(traceback.format_exception(error))
        write_json(self.status, value)
