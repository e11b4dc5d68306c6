"""A table and a page of a sweep, or of any runs."""

import argparse
from pathlib import Path

from visiontune.errors import UserError
from visiontune.sweeps.comparison.compare import compare


def main(arguments: list[str]) -> None:
    """Parse the arguments after `visiontune compare`."""
    parser = argparse.ArgumentParser(prog="visiontune compare", description=__doc__)
    parser.add_argument("directory", nargs="+", type=Path, help="a sweep directory, or run directories")
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="where the table is saved, and beside it the page (default: sweep.csv in the first directory)",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="save the table as Markdown, too")
    parser.add_argument(
        "--baseline",
        metavar="RUN|VALUES",
        help="compare groups of seeds or folds with this one, such as 003 or strategy=full (default: the best)",
    )
    parser.add_argument(
        "--test", action="store_true", help="evaluate the winner of a sweep on the test split, once, and record it"
    )
    parser.add_argument("--test-again", action="store_true", help="also if the test split was used for another winner")
    keys = [argument for argument in arguments if argument.startswith("trust=")]
    options = parser.parse_args([argument for argument in arguments if argument not in keys])
    if options.test or options.test_again:
        if len(options.directory) > 1:
            raise UserError("--test: expected one sweep directory, such as logs/sweeps/2026-11-22_09-15-02")
        from visiontune.sweeps.evaluate_winner import evaluate_winner  # these imports take seconds

        evaluate_winner(options.directory[0], options.test_again, trust="trust=true" in keys)
    compare(options.directory, options.csv, options.markdown, options.baseline)
