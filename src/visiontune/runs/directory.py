"""Where everything of one run lies."""

import fcntl
import hashlib
import json
import os
import secrets
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from visiontune.errors import UserError
from visiontune.runs.files import write_atomically, write_json
from visiontune.runs.log import log


class RunDirectory:
    """One run: its config, status, checkpoints, metrics and images (the names are a contract)."""

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
        """Make `path`, which must not be there yet or be empty: two runs never share a directory.

        Raises:
            UserError: it is taken, or cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / ".claim").touch(exist_ok=False)  # the one step that only one of two processes can take
        except FileExistsError:
            if not (path / "config.yaml").is_file():
                raise UserError(
                    f"{path} is taken by a run that has not begun yet: if that one was killed, delete {path} and write "
                    "the same again, or name another run_dir"
                ) from None
            raise UserError(
                f"{path} already holds a run: name another run_dir, or continue it with run={path}"
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot write to {path}: {error.strerror}; write run_dir=DIR or paths.logs=DIR with a folder that "
                "you may write to"
            ) from None
        if os.listdir(path) != [".claim"]:
            (path / ".claim").unlink()
            raise UserError(f"{path} is not empty: name another run_dir, or continue a run in it with run={path}")
        run = cls(path.resolve())
        for folder in (run.checkpoints, run.report):
            folder.mkdir()
        return run

    @classmethod
    def new(cls, logs: Path, name: str) -> "RunDirectory":
        """A fresh directory `logs/name/TIME-ID`."""
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        path = logs / name / f"{stamp}-{secrets.token_hex(2)}"
        # Of 40 that begin in one second two have the same name in 1% of cases.
        return cls.new(logs, name) if path.exists() else cls.create(path)

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """An existing run.

        Raises:
            UserError: there is no run at `path`.
        """
        run = cls(Path(path).expanduser().resolve())
        if not run.config.is_file() and (run.path / ".claim").is_file():
            raise UserError(
                f"the run in {path} was stopped before it had begun (it has no config.yaml), so that nothing says how "
                f"to go on: delete {path} and start it again with the command that it was started with"
            )
        if not run.config.is_file():
            raise UserError(
                f"{path} is no run directory (it has no config.yaml): give one that train printed, such as "
                "logs/digits/2026-11-22_09-15-02-k3f9"
            )
        return run

    def read_config(self) -> DictConfig:
        cfg = OmegaConf.load(self.config)
        assert isinstance(cfg, DictConfig)
        return cfg

    def write_config(self, cfg: DictConfig) -> None:
        with write_atomically(self.config) as file:
            file.write(OmegaConf.to_yaml(cfg, resolve=True))

    def read_status(self) -> dict[str, Any]:
        return json.loads(self.status.read_text()) if self.status.is_file() else {"status": "unknown"}

    @property
    def finished(self) -> bool:
        """Whether all that it was begun for is done; False where there is no run."""
        return self.read_status()["status"] == "finished"

    def checkpoint(self, which: str) -> Path:
        """Path of the checkpoint `best`, `last`, or a file by its path.

        Raises:
            UserError: there is none.
        """
        path = self.checkpoints / f"{which}.ckpt" if which in ("best", "last", "start") else Path(which).expanduser()
        if not path.is_file():
            raise UserError(f"{path} is not there: checkpoint=best, checkpoint=last or the path of a checkpoint file")
        return path

    def digest(self, which: str = "best") -> str:
        """SHA-256 of a checkpoint: who was made of it can tell it from a later one."""
        return hashlib.sha256(self.checkpoint(which).read_bytes()).hexdigest()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Within, no other process works on this directory; this one may say so again.

        The process itself holds the lock (data-loader workers do not inherit it). It ends with the process, also when
        that is killed.

        Raises:
            UserError: another process does.
        """
        with (self.path / ".claim").open("a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise UserError(
                    f"another process works on {self.path} (a run's status.json has its number): wait until it has "
                    "ended, or stop it"
                ) from None
            except OSError as error:
                log.info(f"note: {self.path} cannot be locked ({error.strerror}): continue it once at a time")
            yield

    @contextmanager
    def running(self) -> Iterator[dict[str, Any]]:
        """Keeps status.json: running, then finished, failed or interrupted with the error.

        What is put into the yielded dictionary stands in it at the end.

        Raises:
            UserError: another process trains this run.
        """
        started = time.time()
        more: dict[str, Any] = {}
        with self.lock():
            self._write_status("running", started)
            try:
                yield more
            except BaseException as error:
                interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
                self._write_status("interrupted" if interrupted else "failed", started, error)
                raise
            self._write_status("finished", started, more=more)

    def _write_status(
        self, status: str, started: float, error: BaseException | None = None, more: dict[str, Any] | None = None
    ) -> None:
        value: dict[str, Any] = {"status": status, "started": started, "updated": time.time(), "pid": os.getpid()}
        value |= more or {}
        if error is not None:
            value["error"] = f"{type(error).__name__}: {error}"
            value["traceback"] = "".join(traceback.format_exception(error))
        write_json(self.status, value)
