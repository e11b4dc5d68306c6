"""Out-of-fold accuracy of finished cross-validations, for docs/benchmarks.md.

python -m benchmarks.folds NAME=SWEEPDIR ...

Each sweep directory holds the folds of one experiment (`train -m data.folds=5 data.fold=0,1,2,3,4 ...`). Every picture
is held out once, so the predictions of all test splits together are one prediction a picture; the interval is Wilson's.
"""

import csv
import sys
from pathlib import Path
from statistics import fmean

from scipy.stats import binomtest

from benchmarks.document import machine, markdown, write_block
from visiontune.compare import find_runs
from visiontune.runs.predictions import read_predictions


def row(name: str, sweep: Path) -> list[str]:
    runs = find_runs([sweep])
    rows = [row for run in runs for row in read_predictions(run.predictions) if row["split"] == "test"]
    assert len({row["path"] for row in rows}) == len(rows), f"{sweep}: a picture is held out twice"
    right = sum(row["truth"] == row["prediction"] for row in rows)
    interval = binomtest(right, len(rows)).proportion_ci(method="wilson")
    minutes = []
    for run in runs:
        with run.history.open(newline="") as file:
            minutes.append(float(list(csv.DictReader(file))[-1]["seconds"]) / 60)
    accuracy = f"{right / len(rows):.3f}"
    return [name, accuracy, f"{interval.low:.3f} to {interval.high:.3f}", str(len(rows)), f"{fmean(minutes):.1f}"]


def main() -> None:
    if len(sys.argv) < 2 or not all("=" in argument for argument in sys.argv[1:]):
        sys.exit(__doc__)
    pairs = (argument.split("=", 1) for argument in sys.argv[1:])
    rows = [row(name, Path(sweep)) for name, sweep in pairs]
    columns = ["strategy", "out-of-fold accuracy", "95% interval", "pictures", "minutes a fold"]
    text = f"{machine()}.\n\n{markdown(columns, rows)}"
    print(text)
    write_block("folds", text)


if __name__ == "__main__":
    main()
