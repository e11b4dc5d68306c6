"""TensorBoard, in RUN/tensorboard."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch.loggers as lightning_loggers
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from visiontune.loggers.base import ImageLogger, LoggedRun


class TensorBoardLogger(lightning_loggers.TensorBoardLogger, ImageLogger):
    """Lightning's TensorBoardLogger, in the run directory, with images and a row of the HPARAMS page.

    Args:
        flush_secs: seconds between writes to the disk.
    """

    def __init__(self, run: LoggedRun, flush_secs: int = 120) -> None:
        super().__init__(
            save_dir=str(run.path), name="", version="tensorboard", default_hp_metric=False, flush_secs=flush_secs
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
        """Add the run as a row of the HPARAMS page; `objectives` are scalars that have been logged."""
        from torch.utils.tensorboard.summary import hparams  # imported when used: it takes half a second

        writer = self.experiment._get_file_writer()
        for summary in hparams(dict(params), dict(objectives)):
            writer.add_summary(summary)
        self.experiment.flush()


def _naming(write: Callable[..., Any], filename: str) -> Callable[..., Any]:
    """`write`, whose errors name the file."""

    def call(*arguments: Any) -> Any:
        try:
            return write(*arguments)
        except OSError as error:
            error.filename = filename
            raise

    return call
