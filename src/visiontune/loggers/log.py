"""One function for each kind of information; scalars go through Lightning's `self.log`."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from lightning.pytorch.loggers import Logger
from torch import Tensor

from visiontune.loggers.base import ArtifactLogger, ImageLogger
from visiontune.loggers.tensorboard import TensorBoardLogger
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import warn_on_failure

ARTIFACTS = (
    "config.yaml", "environment.json", "splits.csv", "metrics.csv", "metrics.json", "predictions.csv", "train.log",
    "checkpoints/best.ckpt",
)  # fmt: skip


def log_hyperparameters(loggers: Sequence[Logger], params: Mapping[str, Any]) -> None:
    for logger in loggers:
        logger.log_hyperparams(dict(params))


def log_image(loggers: Sequence[Logger], name: str, image: Tensor, step: int) -> None:
    """Send the same pixels to every logger that shows images.

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
    """Log the metrics of the best checkpoint as `best/NAME`, and as a row of TensorBoard's HPARAMS page.

    Args:
        monitor: the metric that chose the checkpoint: `val/TASK/METRIC`.
        step: the step at which the best checkpoint was written.
    """
    results = {f"best/{name}": value for name, value in metrics.items()}
    objectives = {f"best/{monitor}", f"best/test/{monitor.partition('/')[2]}"} & results.keys()
    for logger in loggers:
        with warn_on_error(logger):
            logger.log_metrics(results, step)
            if isinstance(logger, TensorBoardLogger):
                logger.add_hparams_row(params, {name: results[name] for name in sorted(objectives)})


def log_final_image(loggers: Sequence[Logger], name: str, image: Tensor, step: int) -> None:
    """Call `log_image` after the training, when an error of a logger is only a warning."""
    for logger in loggers:
        with warn_on_error(logger):
            log_image([logger], name, image, step)


def log_artifacts(loggers: Sequence[Logger], run: RunDirectory) -> None:
    """Send the run's files to the loggers whose `log_artifacts` is true."""
    report = sorted(path.relative_to(run.path).as_posix() for path in run.report.rglob("*") if path.is_file())
    files = [name for name in ARTIFACTS if (run.path / name).is_file()] + report
    for logger in loggers:
        if isinstance(logger, ArtifactLogger) and logger.log_artifacts:
            with warn_on_error(logger):
                logger.add_files(run.path, files)


def warn_on_error(logger: Logger) -> AbstractContextManager[None]:
    """Log what a logger raises as a warning."""
    return warn_on_failure(type(logger).__name__)
