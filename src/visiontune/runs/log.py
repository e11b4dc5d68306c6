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
        path: a file that is appended to; None = the terminal alone, and nothing of the libraries.
        quiet: nothing to the terminal (the other processes of a distributed run).
    """
    handlers: list[tuple[logging.Logger, logging.Handler]] = []
    log.setLevel(logging.INFO)
    log.propagate = False
    libraries = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    if not quiet:
        terminal = logging.StreamHandler(sys.stdout)
        terminal.setFormatter(logging.Formatter("%(message)s"))
        handlers.append((log, terminal))
    if path is not None:
        file = logging.FileHandler(path)
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        handlers += [(source, file) for source in (log, *libraries, logging.getLogger("py.warnings"))]
    before = [(library, library.handlers, library.propagate) for library in libraries]
    for library in libraries:
        library.handlers, library.propagate = [logging.NullHandler()], False
    logging.getLogger("py.warnings").addHandler(logging.NullHandler())  # else they would go to stderr all the same
    logging.captureWarnings(True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        for source, handler in handlers:
            source.addHandler(handler)
        try:
            yield
        finally:
            for source, handler in handlers:
                source.removeHandler(handler)
            for library, own, propagate in before:
                library.handlers, library.propagate = own, propagate
            logging.captureWarnings(False)
