"""Out-of-fold accuracy of finished cross-validations, for docs/benchmarks.md and docs/compression.md.

python -m benchmarks.folds BLOCK NAME=SWEEPDIR[,SWEEPDIR...][:KEY=VALUE] ...

Each sweep directory holds the folds of one experiment (`train -m data.folds=5 data.fold=0,1,2,3,4 ...`) with one seed.
If it holds several experiments, KEY=VALUE of the config chooses one. Every image is in one test split per seed, so all
test splits together have one prediction per image and seed. The interval is Wilson's, of the mean over seeds.
Unfinished folds are left out; the number of images shows that. The first two experiments are also compared fold by fold
(the interval of the mean difference has Nadeau and Bengio's corrected variance) and image by image (McNemar's exact
test; with several seeds, an image counts for the experiment that is right about it more often).
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Hashable, Mapping
from pathlib import Path
from statistics import fmean

from omegaconf import OmegaConf
from scipy.stats import binomtest

from benchmarks.document import COMPRESSION, PAGE, machines, markdown, write_block
from visiontune.runs import RunDirectory
from visiontune.runs.predictions import read_predictions
from visiontune.sweeps.comparison.statistics import Estimate, compare_groups
from visiontune.sweeps.comparison.table import find_entries


def finished_runs(sweep: str) -> list[RunDirectory]:
    """The finished runs of `SWEEPDIR[,SWEEPDIR...][:KEY=VALUE]`."""
    folder, _, choice = sweep.partition(":")
    key, _, value = choice.partition("=")
    entries = find_entries([Path(part) for part in folder.split(",")])
    runs = [RunDirectory.open(entry.path) for entry in entries if entry.status["status"] == "finished"]
    return [run for run in runs if not key or str(OmegaConf.select(run.read_config(), key)) == value]


def seed_and_fold(run: RunDirectory) -> tuple[int, int]:
    cfg = run.read_config()
    return int(cfg.seed), int(cfg.data.fold)


def score_images(runs: list[RunDirectory]) -> dict[str, float]:
    """By path, the fraction of seeds with a right prediction of the image when it is in the test split."""
    right: dict[str, list[bool]] = defaultdict(list)
    for run in runs:
        for row in read_predictions(run.predictions):
            if row["split"] == "test":
                right[row["path"]].append(row["truth"] == row["prediction"])
    seeds = len({seed_and_fold(run)[0] for run in runs})
    assert max(map(len, right.values())) <= seeds, "an image is in two test splits"
    return {path: fmean(values) for path, values in right.items()}


def table_row(name: str, sweep: str) -> list[str]:
    runs = finished_runs(sweep)
    right = score_images(runs)
    interval = binomtest(round(sum(right.values())), len(right)).proportion_ci(method="wilson")
    minutes = []
    for run in runs:
        with run.history.open(newline="") as file:
            minutes.append(float(list(csv.DictReader(file))[-1]["seconds"]) / 60)
    accuracy = f"{fmean(right.values()):.3f}"
    return [name, accuracy, f"{interval.low:.3f} to {interval.high:.3f}", str(len(right)), f"{fmean(minutes):.2f}"]


def mean_difference(points: Mapping[Hashable, float], folds: int) -> Estimate:
    """The mean over folds, whose training splits overlap, with its interval.

    Args:
        points: the difference by seed and fold.
        folds: number of folds of each seed.
    """
    (summary,) = compare_groups({"difference": points}, overlap=1 / (folds - 1))
    return summary.mean


def compare_pairs(first: str, second: str, second_name: str) -> str:
    """In how many folds, and on how many images, the first sweep is better than the second."""
    firsts, seconds = ({seed_and_fold(run): run for run in finished_runs(sweep)} for sweep in (first, second))
    both = sorted(firsts.keys() & seconds.keys())
    folds = int(firsts[both[0]].read_config().data.folds)
    means = [[fmean(score_images([runs[key]]).values()) for key in both] for runs in (firsts, seconds)]
    points = [100 * (a - b) for a, b in zip(*means, strict=True)]
    scores, other_scores = (score_images([runs[key] for key in both]) for runs in (firsts, seconds))
    only_first = sum(scores[path] > other_scores[path] for path in scores)
    only_second = sum(other_scores[path] > scores[path] for path in scores)
    p = binomtest(only_first, only_first + only_second).pvalue
    above, difference = sum(value > 0 for value in points), mean_difference(dict(zip(both, points, strict=True)), folds)
    return (
        f"{above} of {len(both)} folds, by {difference.value:+.1f} +- {difference.margin:.1f} points. Images right "
        f"with it alone: {only_first}; with {second_name} alone: {only_second} (McNemar's exact test: p = {p:.2g})."
    )


def main() -> None:
    if len(sys.argv) < 4 or not all("=" in argument for argument in sys.argv[2:]):
        sys.exit(__doc__)
    block = sys.argv[1]
    sweeps = {name: sweep for name, _, sweep in (argument.partition("=") for argument in sys.argv[2:])}
    columns = ["training", "out-of-fold accuracy", "95% interval", "images", "minutes a fold"]
    measured_on = machines([run for sweep in sweeps.values() for run in finished_runs(sweep)])
    text = f"{measured_on}.\n\n{markdown(columns, [table_row(name, sweep) for name, sweep in sweeps.items()])}"
    first, second, *_ = sweeps
    comparison = compare_pairs(sweeps[first], sweeps[second], second)
    print(f"{text}\n\n{comparison}")
    page = next(page for page in (PAGE, COMPRESSION) if f"<!-- {block} -->" in page.read_text())
    write_block(block, text, page)
    write_block(f"{block}_paired", comparison, page)


if __name__ == "__main__":
    main()
