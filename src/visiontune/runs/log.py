"""The messages of a run: in the terminal, and with the time in train.log."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from visiontune.errors import first_line, visible

log = logging.getLogger("visiontune")


class _Visible(logging.Formatter):
    """Escapes control characters, which may be in names from elsewhere."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _LogFile(logging.FileHandler):
    """Raises an error of a write, which a FileHandler prints with a traceback; then it writes nothing more."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.failed = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.failed:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            return super().handleError(record)
        self.failed = True
        error.filename = error.filename or self.baseFilename
        raise error

    def close(self) -> None:
        with suppress(OSError):  # what could not be written
            super().close()


class _Terminal(logging.StreamHandler[TextIO]):
    """Writes nothing more when nobody reads it, as after `| head -1`; a StreamHandler prints a traceback each time."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), BrokenPipeError):
            super().handleError(record)


@contextmanager
def logging_to(path: Path | None, quiet: bool = False) -> Iterator[None]:
    """Send the messages of `log` to the terminal, and to `path` together with Lightning's messages and all warnings.

    Args:
        path: a file to append to; None sends the messages of `log` to the terminal only.
        quiet: write nothing to the terminal, as the ranks above 0 do.
    """
    handlers: list[tuple[logging.Logger, logging.Handler]] = []
    log.setLevel(logging.INFO)
    log.propagate = False
    libraries = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    python_warnings = logging.getLogger("py.warnings")
    if not quiet:
        terminal = _Terminal(sys.stdout)
        terminal.setFormatter(_Visible("%(message)s"))
        handlers.append((log, terminal))
    if path is not None:
        file = _LogFile(path)
        file.setFormatter(_Visible("%(asctime)s %(message)s"))
        handlers += [(source, file) for source in (log, *libraries, python_warnings)]
    handlers.append((python_warnings, logging.NullHandler()))  # without one they would go to stderr
    before = [(source, source.handlers, source.propagate) for source in (*libraries, python_warnings)]
    for library in libraries:
        library.handlers, library.propagate = [logging.NullHandler()], False
    python_warnings.propagate = False  # a library that calls logging.warning() gives the root logger a handler
    with warnings.catch_warnings():
        logging.captureWarnings(True)
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        for source, handler in handlers:
            source.addHandler(handler)
        try:
            yield
        finally:
            for source, handler in handlers:
                source.removeHandler(handler)
                handler.close()
            for source, previous_handlers, propagate in before:
                source.handlers, source.propagate = previous_handlers, propagate
            logging.captureWarnings(False)


def announce(message: str) -> None:
    """Print a message that belongs to no run."""
    with logging_to(None):
        log.info(message)


@contextmanager
def warn_on_failure(what: str) -> Iterator[None]:
    """Log an error in the block as a warning: a finished training stays finished.

    Args:
        what: what is missing because of the error.
    """
    try:
        yield
    except Exception as error:  # heads, metrics, matplotlib and loggers have their own types
        log.warning(f"warning: {what}: {type(error).__name__}: {first_line(error)}")
