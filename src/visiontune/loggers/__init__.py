"""Where a run is logged: one module per tracking tool, and one function for each kind of information."""

from visiontune.loggers.base import ImageLogger, LoggedRun
from visiontune.loggers.build import check_loggers, open_loggers
from visiontune.loggers.csv_file import CSVLogger
from visiontune.loggers.mlflow import MLFlowLogger
from visiontune.loggers.tensorboard import TensorBoardLogger
from visiontune.loggers.wandb import WandbLogger

__all__ = [
    "CSVLogger",
    "ImageLogger",
    "LoggedRun",
    "MLFlowLogger",
    "TensorBoardLogger",
    "WandbLogger",
    "check_loggers",
    "open_loggers",
]
