"""Every strategy in one table of docs/strategies.md, from finished sweeps over seeds or folds.

visiontune train -m sweep=strategies test=true sweep_dir=logs/strategies/digits
python -m benchmarks.strategies BLOCK METRIC SWEEP_DIR ...
python -m benchmarks.strategies digits classification/accuracy logs/strategies/digits

The interval of the test metric is Student's, over the runs of a strategy. Time and memory are those of a whole run,
with evaluation and report.
"""

import math
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from scipy.stats import t as student

from benchmarks.document import STRATEGIES, machines, markdown, write_block
from visiontune.runs import RunDirectory
from visiontune.sweeps.comparison.table import find_entries, table


def summary(name: str, runs: list[dict[str, Any]], metric: str) -> tuple[float, list[str]]:
    """The mean of the metric, and the row of a strategy."""
    values = [float(run[f"test/{metric}"]) for run in runs]
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    mean, seconds = fmean(values), median(float(run["seconds"]) for run in runs)
    memory = max(float(run["peak_memory_mb"]) for run in runs)
    trained = median(int(run["trained_parameters"]) for run in runs)
    number = f"{mean:.3f} +- {half:.3f}"
    return mean, [name, number, str(len(runs)), f"{seconds:.0f} s", f"{memory / 1000:.1f} GB", f"{trained:,.0f}"]


def _label(row: dict[str, Any]) -> str:
    """The search, the technique that a sweep varies, or the strategy."""
    names = str(row.get("technique") or "").strip("[]").split(",")
    technique = next((name for name in reversed(names) if name), "")
    return technique or ("auto" if row.get("search") else row["strategy"])


def main() -> None:
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    block, metric, *folders = sys.argv[1:]
    entries = find_entries([Path(folder) for folder in folders])
    entries = [entry for entry in entries if entry.status["status"] == "finished"]
    runs = [RunDirectory.open(entry.path) for entry in entries]
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table(entries):
        groups[_label(row)].append(row)
    rows = sorted((summary(name, members, metric) for name, members in groups.items()), reverse=True)
    columns = ["strategy", f"test {metric}", "runs", "time of a run", "peak memory", "trained parameters"]
    text = f"{machines(runs)}.\n\n{markdown(columns, [cells for _, cells in rows])}"
    print(text)
    write_block(block, text, STRATEGIES)


if __name__ == "__main__":
    main()
