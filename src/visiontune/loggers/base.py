"""The run that a logger gets, and what loggers of this package do in addition to Lightning's `Logger`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from visiontune.runs.files import write_json
from visiontune.runs.reading import read_json


@dataclass(frozen=True)
class LoggedRun:
    """The run that a logger logs.

    Args:
        path: the run directory; `RUN/loggers` holds what loggers remember for a resumed run.
        name: what dashboards show.
        group: the name of the sweep that the run is a job of.
        varied: the overrides of the keys that this sweep varies, such as `optimizer.lr=0.001`.
    """

    path: Path
    name: str
    group: str | None = None
    tags: tuple[str, ...] = ()
    note: str | None = None
    varied: tuple[str, ...] = ()

    def read(self, logger: str) -> dict[str, Any]:
        """The values that `write` saved for this logger; empty in a new run."""
        file = self._file(logger)
        return read_json(file) if file.is_file() else {}

    def write(self, logger: str, values: Mapping[str, Any]) -> None:
        """Save `values`, such as the id of the run on a server, so that a resumed run is the same run there."""
        self._file(logger).parent.mkdir(exist_ok=True)
        write_json(self._file(logger), dict(values))

    def sent_file(self, logger: str) -> Path:
        """The file of this logger's `SentRecords`."""
        return self.path / "loggers" / f"{logger}_sent.csv"

    def _file(self, logger: str) -> Path:
        return self.path / "loggers" / f"{logger}.json"


class ImageLogger(ABC):
    """A logger that shows images."""

    @abstractmethod
    def add_image(self, name: str, image: Tensor, step: int) -> None:
        """Show an image.

        Args:
            image: `(3, H, W)`, uint8.
        """


class ArtifactLogger(ABC):
    """A logger that stores the files of a run if `log_artifacts` is true."""

    log_artifacts: bool

    @abstractmethod
    def add_files(self, folder: Path, files: list[str]) -> None:
        """Store files.

        Args:
            files: paths relative to `folder`.
        """
