"""Out-of-fold accuracy of finished cross-validations, for docs/benchmarks.md and docs/compression.md.

python -m benchmarks.folds BLOCK NAME=SWEEPDIR[,SWEEPDIR...][:KEY=VALUE] ...

Each sweep directory holds the folds of one experiment (`train -m data.folds=5 data.fold=0,1,2,3,4 ...`) with one seed,
or of several of which KEY=VALUE of the config chooses one. Every image is held out once, so the predictions of all
test splits together are one prediction an image and seed; the interval is Wilson's, of the mean over seeds. Folds that
are not finished are left out, which the number of images shows. The first two are also compared fold by fold
(Student's interval of the difference) and image by image (McNemar's exact test; over several seeds an image counts
for the one that is right on it more often).
"""

import csv
import math
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

from omegaconf import OmegaConf
from scipy.stats import binomtest
from scipy.stats import t as student

from benchmarks.document import COMPRESSION, PAGE, machines, markdown, write_block
from visiontune.runs import RunDirectory
from visiontune.runs.predictions import read_predictions
from visiontune.sweeps.comparison import find_runs


def finished(sweep: str) -> list[RunDirectory]:
    folder, _, choice = sweep.partition(":")
    key, _, value = choice.partition("=")
    runs = [run for run in find_runs([Path(part) for part in folder.split(",")]) if run.finished]
    return [run for run in runs if not key or str(OmegaConf.select(run.read_config(), key)) == value]


def fold_of(run: RunDirectory) -> tuple[int, int]:
    """Seed and fold."""
    cfg = run.read_config()
    return int(cfg.seed), int(cfg.data.fold)


def held_out(runs: list[RunDirectory]) -> dict[str, float]:
    """The share of seeds with which the prediction of a held-out image is right, by path."""
    right: dict[str, list[bool]] = defaultdict(list)
    for run in runs:
        for row in read_predictions(run.predictions):
            if row["split"] == "test":
                right[row["path"]].append(row["truth"] == row["prediction"])
    seeds = len({fold_of(run)[0] for run in runs})
    assert max(map(len, right.values())) <= seeds, "an image is held out twice"
    return {path: fmean(values) for path, values in right.items()}


def table_row(name: str, sweep: str) -> list[str]:
    runs = finished(sweep)
    right = held_out(runs)
    interval = binomtest(round(sum(right.values())), len(right)).proportion_ci(method="wilson")
    minutes = []
    for run in runs:
        with run.history.open(newline="") as file:
            minutes.append(float(list(csv.DictReader(file))[-1]["seconds"]) / 60)
    accuracy = f"{fmean(right.values()):.3f}"
    return [name, accuracy, f"{interval.low:.3f} to {interval.high:.3f}", str(len(right)), f"{fmean(minutes):.2f}"]


def paired(first: str, second: str, other: str) -> str:
    """In how many folds, and on how many images, one is above the other, whose name is given."""
    ours, others = ({fold_of(run): run for run in finished(sweep)} for sweep in (first, second))
    both = sorted(ours.keys() & others.keys())
    points = [100 * (fmean(held_out([ours[k]]).values()) - fmean(held_out([others[k]]).values())) for k in both]
    a, b = (held_out([runs[k] for k in both]) for runs in (ours, others))
    only_first, only_second = sum(a[path] > b[path] for path in a), sum(b[path] > a[path] for path in a)
    p = binomtest(only_first, only_first + only_second).pvalue
    above, half = sum(value > 0 for value in points), math.nan
    if len(both) > 1:
        half = float(student.ppf(0.975, len(both) - 1)) * stdev(points) / math.sqrt(len(both))
    return (
        f"{above} of {len(both)} folds, by {fmean(points):+.1f} +- {half:.1f} points. Images right with it alone: "
        f"{only_first}; with {other} alone: {only_second} (McNemar's exact test: p = {p:.2g})."
    )


def main() -> None:
    if len(sys.argv) < 4 or not all("=" in argument for argument in sys.argv[2:]):
        sys.exit(__doc__)
    block = sys.argv[1]
    sweeps = {name: sweep for name, _, sweep in (argument.partition("=") for argument in sys.argv[2:])}
    columns = ["training", "out-of-fold accuracy", "95% interval", "images", "minutes a fold"]
    where = machines([run for sweep in sweeps.values() for run in finished(sweep)])
    text = f"{where}.\n\n{markdown(columns, [table_row(name, sweep) for name, sweep in sweeps.items()])}"
    first, second, *_ = sweeps
    comparison = paired(sweeps[first], sweeps[second], second)
    print(f"{text}\n\n{comparison}")
    page = next(page for page in (PAGE, COMPRESSION) if f"<!-- {block} -->" in page.read_text())
    write_block(block, text, page)
    write_block(f"{block}_paired", comparison, page)


if __name__ == "__main__":
    main()
