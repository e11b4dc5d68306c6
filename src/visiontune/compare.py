"""A table and a page of a sweep, or of any runs."""

import argparse
from pathlib import Path

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
    options = parser.parse_args(arguments)
    compare(options.directory, options.csv, options.markdown, options.baseline)
