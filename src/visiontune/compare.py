"""A table and a page of a sweep, or of any runs. After a sweep: the test of its winner, and the mean of its weights."""

import argparse
from pathlib import Path

from visiontune.errors import UserError
from visiontune.sweeps.comparison.compare import compare

USAGE = "visiontune compare DIR... [options]"
KEYS = """
  trust=true            the runs are yours: import the classes that they name
  soup=greedy           average the weights of the runs of a sweep, starting with the best run; each further run is
                        added unless the objective becomes worse. The mean is a new run: DIR/soup
"""


def main(arguments: list[str]) -> None:
    """Parse the arguments after `visiontune compare`."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(usage=USAGE, description=__doc__, epilog=KEYS, formatter_class=style)
    parser.add_argument("directory", metavar="DIR", nargs="+", help="a sweep directory, or run directories")
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
    options = parser.parse_args(arguments)
    keys = [word for word in options.directory if word.startswith(("soup=", "trust="))]
    directories = [Path(word) for word in options.directory if word not in keys]
    trust, soup = "trust=true" in keys, "soup=greedy" in keys
    if unknown := [word for word in keys if word not in ("trust=true", "trust=false", "soup=greedy")]:
        raise UserError(f"{unknown[0]}: expected soup=greedy or trust=true")
    if not directories:
        raise UserError("expected a sweep directory or run directories, such as logs/sweeps/2026-11-22_09-15-02")
    if (soup or options.test or options.test_again) and len(directories) > 1:
        raise UserError("--test and soup=greedy: expected one sweep directory, such as logs/sweeps/2026-11-22_09-15-02")
    if options.test or options.test_again:
        from visiontune.sweeps.evaluate_winner import evaluate_winner  # these imports take seconds

        evaluate_winner(directories[0], options.test_again, trust)
    if soup:
        from visiontune.sweeps.soup import make_soup

        run = make_soup(directories[0], trust)
    compare(directories, options.csv, options.markdown, options.baseline)
    if soup:
        print(run.path)
