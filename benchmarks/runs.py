"""Numbers of finished runs as one table of docs/benchmarks.md.

python -m benchmarks.runs BLOCK RUN:METRIC[,METRIC] ...
python -m benchmarks.runs scenes logs/scenes/RUN:val/detection/map_50

The metrics, minutes and threads are read from the run directories.
"""

import csv
import json
import sys
from pathlib import Path

from benchmarks.document import machines, markdown, write_block
from visiontune.runs import RunDirectory


def training_minutes(run: RunDirectory) -> float:
    """Wall time from the first step to the last validation."""
    with run.history.open(newline="") as file:
        return float(list(csv.DictReader(file))[-1]["seconds"]) / 60


def metric_rows(run: RunDirectory, names: list[str]) -> list[list[str]]:
    """A row per metric; the first also has the cells of the run."""
    metrics = json.loads(run.metrics.read_text())
    cfg = run.read_config()
    run_cells = [Path(cfg.name).name, ", ".join(str(head) for head in cfg.heads), str(cfg.trainer.max_epochs)]
    rows = [["", "", "", f"`{name}`", f"{metrics[name]:.3f}", ""] for name in names]
    rows[0] = [*run_cells, *rows[0][3:5], f"{training_minutes(run):.1f}"]
    return rows


def main() -> None:
    if len(sys.argv) < 3 or not all(":" in argument for argument in sys.argv[2:]):
        sys.exit(__doc__)
    rows, runs = [], []
    for argument in sys.argv[2:]:
        path, _, names = argument.rpartition(":")
        run = RunDirectory.open(path)
        rows += metric_rows(run, names.split(","))
        runs.append(run)
    columns = ["run", "heads", "epochs", "metric", "value", "minutes"]
    text = f"{machines(runs)}.\n\n{markdown(columns, rows)}"
    print(text)
    write_block(sys.argv[1], text)


if __name__ == "__main__":
    main()
