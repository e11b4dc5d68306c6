"""One function for each kind of information; scalars go through Lightning's own `self.log`."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.loggers import Logger
from torch import Tensor

from visiontune.loggers.base import ArtifactLogger, ImageLogger
from visiontune.loggers.tensorboard import TensorBoardLogger
from visiontune.runs.directory import RunDirectory

log = logging.getLogger("visiontune")
ARTIFACTS = (
    "config.yaml", "environment.json", "splits.csv", "metrics.csv", "metrics.json", "predictions.csv", "train.log",
    "checkpoints/best.ckpt",
)  # fmt: skip


def log_hyperparameters(loggers: Sequence[Logger], params: Mapping[str, Any]) -> None:
    for logger in loggers:
        logger.log_hyperparams(dict(params))


def log_image(loggers: Sequence[Logger], name: str, image: Tensor, step: int) -> None:
    """Every logger that shows images gets the same pixels.

    Args:
        image: `(3, H, W)`; uint8, or floats from 0 to 1.
    """
    if image.is_floating_point():
        image = (image.clamp(0, 1) * 255).round().byte()
    for logger in loggers:
        if isinstance(logger, ImageLogger):
            logger.add_image(name, image.cpu(), step)


def log_results(
    loggers: Sequence[Logger], params: Mapping[str, Any], metrics: Mapping[str, float], monitor: str, step: int
) -> None:
    """The metrics of the best checkpoint, as `best/NAME`; TensorBoard's HPARAMS page gets a row as well.

    Args:
        monitor: the metric that chose the checkpoint: `val/TASK/METRIC`.
        step: at which the best checkpoint was written.
    """
    results = {f"best/{name}": value for name, value in metrics.items()}
    objectives = {f"best/{monitor}", f"best/test/{monitor.partition('/')[2]}"} & results.keys()
    for logger in loggers:
        with warn_on_error(logger):
            logger.log_metrics(results, step)
            if isinstance(logger, TensorBoardLogger):
                logger.add_hparams_row(params, {name: results[name] for name in sorted(objectives)})


def log_final_image(loggers: Sequence[Logger], name: str, image: Tensor, step: int) -> None:
    """`log_image` after the training, which must not fail any more."""
    for logger in loggers:
        with warn_on_error(logger):
            log_image([logger], name, image, step)


def log_artifacts(loggers: Sequence[Logger], run: RunDirectory) -> None:
    """The run's files, to the loggers whose `log_artifacts` is true."""
    report = sorted(path.relative_to(run.path).as_posix() for path in run.report.rglob("*") if path.is_file())
    files = [name for name in ARTIFACTS if (run.path / name).is_file()] + report
    for logger in loggers:
        if isinstance(logger, ArtifactLogger) and logger.log_artifacts:
            with warn_on_error(logger):
                logger.add_files(run.path, files)


@contextmanager
def warn_on_error(logger: Logger) -> Iterator[None]:
    """A finished training stays finished: what a logger raises is a warning."""
    try:
        yield
    except Exception as error:  # each library has its own types
        log.warning(f"warning: {type(logger).__name__}: {type(error).__name__}: {error}")
