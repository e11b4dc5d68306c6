"""One more worker for a sweep; also how a sweep is resumed."""

import argparse
from pathlib import Path

from visiontune.errors import UserError


def main(arguments: list[str]) -> None:
    """Parse the arguments after `visiontune work`."""
    parser = argparse.ArgumentParser(prog="visiontune work", description=__doc__)
    parser.add_argument("directory", type=Path, help="a sweep directory")
    parser.add_argument("--workers", type=int, help="number of jobs at the same time (default: as the sweep began)")
    parser.add_argument(
        "--allow-changed", action="store_true", help="resume interrupted jobs though the code has changed since"
    )
    options = parser.parse_args(arguments)
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers {options.workers}: expected 1 or more")
    from visiontune.sweeps.resume import resume  # the imports take seconds, for which nobody waits who mistyped
    from visiontune.sweeps.worker import preload

    preload()
    from visiontune.train import main as train

    resume(options.directory.expanduser(), options.workers, options.allow_changed, train)
