"""TensorBoard, in RUN/tensorboard."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch.loggers as lightning_loggers
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from visiontune.config.jobs import split_override
from visiontune.config.space import REPEATS
from visiontune.loggers.base import ImageLogger, LoggedRun

MAX_NAME = 100  # characters of a folder


class TensorBoardLogger(lightning_loggers.TensorBoardLogger, ImageLogger):
    """Lightning's TensorBoardLogger, in the run directory, with images and a row of the HPARAMS page.

    TensorBoard names runs by their folder. That of a job of a sweep is `RUN/tensorboard/KEY=VALUE ...`.

    Args:
        flush_secs: seconds between writes to the disk.
    """

    def __init__(self, run: LoggedRun, flush_secs: int = 120) -> None:
        self.run = run
        super().__init__(
            save_dir=str(run.path), name="", version=find_folder(run), default_hp_metric=False, flush_secs=flush_secs
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        is_new = self._experiment is None
        writer = super().experiment
        if is_new:
            file = writer._get_file_writer().event_writer._general_file_writer
            file.write, file.flush = _naming(file.write, file.filename), _naming(file.flush, file.filename)
        return writer

    @rank_zero_only
    def add_image(self, name: str, image: Tensor, step: int) -> None:
        self.experiment.add_image(name, image, step)

    @rank_zero_only
    def add_hparams_row(self, params: Mapping[str, Any], objectives: Mapping[str, float]) -> None:
        """Add the run as a row of the HPARAMS page; `objectives` are scalars that have been logged.

        For a job of a sweep, the page shows the keys that vary first, and the mean of the runs that differ only in
        their seed or fold.
        """
        # Imported when used: it takes half a second.
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
        from torch.utils.tensorboard.summary import hparams

        varied = dict(split_override(item) for item in self.run.varied)
        texts = {key: value for key, value in varied.items() if not isinstance(params.get(key), int | float)}
        writer = self.experiment._get_file_writer()
        for summary in hparams({**params, **texts}, dict(objectives)):
            metadata = summary.value[0].metadata.plugin_data
            data = HParamsPluginData.FromString(metadata.content)
            for info in data.experiment.hparam_infos:
                info.differs = info.name in varied.keys() - REPEATS  # these columns come first
            if varied and data.HasField("session_start_info"):
                group = [f"{key}={value}" for key, value in varied.items() if key not in REPEATS]
                data.session_start_info.group_name = " ".join([*group, f"({self.run.group})"])
            metadata.content = data.SerializeToString()
            writer.add_summary(summary)
        self.experiment.flush()


def find_folder(run: LoggedRun) -> str:
    """The folder of a run's events, relative to its directory; a resumed run keeps it, also if more keys vary now."""
    events = next(run.path.glob("tensorboard/**/events.out.*"), None)
    if events is not None:
        return events.parent.relative_to(run.path).as_posix()
    name = clean(" ".join(run.varied))
    return f"tensorboard/{name}" if name else "tensorboard"


def clean(text: str) -> str:
    """A name of a folder on any file system: other characters than `A-Z a-z 0-9 = . , + - _` and spaces are `_`."""
    return re.sub(r"[^\w =.,+-]", "_", text, flags=re.ASCII)[:MAX_NAME].strip(" .")


def _naming(write: Callable[..., Any], filename: str) -> Callable[..., Any]:
    """`write`, whose errors name the file."""

    def call(*arguments: Any) -> Any:
        try:
            return write(*arguments)
        except OSError as error:
            error.filename = filename
            raise

    return call
