"""What a run says: to the terminal, and to train.log with the time."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("visiontune")


@contextmanager
def logging_to(path: Path | None, quiet: bool = False) -> Iterator[None]:
    """Lines of `log` go to the terminal as they are, and to `path` together with Lightning's own and all warnings.

    Args:
        path: a file that is appended to; None = the terminal alone.
        quiet: nothing to the terminal (the other processes of a distributed run).
    """
    handlers: list[tuple[logging.Logger, logging.Handler]] = []
    log.setLevel(logging.INFO)
    log.propagate = False
    lightning = logging.getLogger("lightning.pytorch")
    lightning.propagate = False
    if not quiet:
        terminal = logging.StreamHandler(sys.stdout)
        terminal.setFormatter(logging.Formatter("%(message)s"))
        handlers.append((log, terminal))
    if path is not None:
        file = logging.FileHandler(path)
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        handlers += [(source, file) for source in (log, lightning, logging.getLogger("py.warnings"))]
    others, lightning.handlers = lightning.handlers, []
    logging.captureWarnings(path is not None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        for source, handler in handlers:
            source.addHandler(handler)
        try:
            yield
        finally:
            for source, handler in handlers:
                source.removeHandler(handler)
            lightning.handlers = others
            logging.captureWarnings(False)
