"""One more worker for a sweep; also how a sweep is resumed."""

import argparse
from pathlib import Path

from omegaconf import DictConfig

from visiontune.errors import UserError


def main(arguments: list[str]) -> None:
    """Parse the arguments after `visiontune work`."""
    parser = argparse.ArgumentParser(prog="visiontune work", description=__doc__)
    parser.add_argument("directory", type=Path, help="a sweep directory")
    parser.add_argument("--workers", type=int, help="number of jobs at the same time (default: as the sweep began)")
    parser.add_argument(
        "--allow-changed", action="store_true", help="resume interrupted jobs though the code has changed since"
    )
    parser.add_argument("--keep-failed", action="store_true", help="do not run the failed jobs again")
    options = parser.parse_args(arguments)
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers {options.workers}: expected 1 or more")
    from visiontune.sweeps.resume import resume  # these imports take seconds

    resume(options.directory.expanduser(), options.workers, options.allow_changed, options.keep_failed, train)


def train(cfg: DictConfig) -> float:
    """Train or resume the run of a job, in its process; a worker does not need these imports."""
    from visiontune.train import main

    return main(cfg)
