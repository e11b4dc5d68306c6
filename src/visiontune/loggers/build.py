"""Check, build and close the loggers of a run."""

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from visiontune.config.jobs import select_overrides
from visiontune.errors import UserError, failed_write
from visiontune.loggers.base import LoggedRun
from visiontune.loggers.log import warn_on_error
from visiontune.nodes import build, check_arguments, find, wrong_arguments
from visiontune.runs.directory import RunDirectory
from visiontune.runs.reading import read_plain_yaml

LOGGER = "a Logger, such as visiontune.loggers.CSVLogger"


def check_loggers(cfg: DictConfig) -> None:
    """Check `logger` in the config before the run begins; nothing is created.

    Raises:
        UserError: a library is not installed, or an argument is wrong.
    """
    for name, node in cfg.logger.items():
        if not OmegaConf.is_dict(node) or "_target_" not in node:
            raise UserError(f"logger.{name}: expected a mapping with a _target_, as in configs/logger/tensorboard.yaml")
        settings = {str(key): value for key, value in OmegaConf.to_container(node, resolve=True).items()}  # type: ignore[union-attr]
        logger = find(settings["_target_"], f"logger.{name}", LOGGER, Logger)
        package = getattr(logger, "package", None)
        if package is not None and find_spec(package) is None:
            raise UserError(
                f"logger={name} needs {package}, an extra of this package: pip install 'visiontune[{package}]'"
            )
        check_arguments(logger, settings, f"logger.{name}")
        settings = {key: value for key, value in settings.items() if key not in ("_target_", "_partial_")}
        try:
            inspect.signature(logger).bind(**({"run": None} if node.get("_partial_") else {}), **settings)
        except TypeError as error:
            raise UserError(f"logger.{name}: {error}; its arguments: {_arguments(logger)}") from error
        if check := getattr(logger, "check", None):
            check(**settings)


def _arguments(logger: Any) -> str:
    return ", ".join(name for name in inspect.signature(logger).parameters if name != "run")


@contextmanager
def open_loggers(cfg: DictConfig, path: Path) -> Iterator[list[Logger]]:
    """Build the loggers of the run at `path`; close them when the block ends."""
    run = _logged_run(cfg, path)
    loggers = []
    for name, node in cfg.logger.items():
        logger = build(node, f"logger.{name}", LOGGER, Logger)
        with wrong_arguments(f"logger.{name}"):
            logger = logger(run=run) if isinstance(logger, partial) else logger
        _warn_when_finalize_fails(logger)
        loggers.append(logger)
    status = "success"
    show, threading.excepthook = threading.excepthook, _show_other_errors(threading.excepthook, path)
    try:
        yield loggers
    except BaseException as error:
        status = "failed" if isinstance(error, Exception) else "interrupted"
        raise
    finally:
        threading.excepthook = show
        for logger in loggers:
            if close := getattr(logger, "close", None):
                with warn_on_error(logger):
                    close(status)


def _show_other_errors(show: Callable[[Any], object], path: Path) -> Callable[[Any], object]:
    """`show` without a failed write in the thread of a logger, whose next call raises the error in this thread."""
    return lambda hook: None if failed_write(hook.exc_value, path) else show(hook)


def _warn_when_finalize_fails(logger: Logger) -> None:
    """The Trainer calls `finalize` after the training. An error in it would prevent the evaluation."""
    finalize = logger.finalize

    def finalize_or_warn(status: str) -> None:
        with warn_on_error(logger):
            finalize(status)

    object.__setattr__(logger, "finalize", finalize_or_warn)


def _logged_run(cfg: DictConfig, path: Path) -> LoggedRun:
    """A job of a sweep has the name `SWEEP/000 KEY=VALUE` and the group SWEEP; another run that of its directory."""
    tags: Any = cfg.get("tags") or ()
    run = LoggedRun(path, path.name, tags=tuple(tags), note=cfg.get("note"))
    if not (cfg.get("run_dir") and cfg.get("sweep_dir") and Path(cfg.run_dir).parent == Path(cfg.sweep_dir)):
        return run
    group, varied = Path(cfg.sweep_dir).name, _read_varied(path)
    return replace(run, name=" ".join([f"{group}/{path.name}", *varied]), group=group, varied=tuple(varied))


def _read_varied(path: Path) -> list[str]:
    """The overrides of a job that its sweep varies."""
    sweep = path.parent / "sweep.yaml"
    keys = read_plain_yaml(sweep).get("keys", []) if sweep.is_file() else []
    return select_overrides(RunDirectory(path).read_overrides(), keys)
