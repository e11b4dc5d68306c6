"""Compare a pruned network with one of the same size that was trained directly. For docs/compression.md.

python -m benchmarks.prune RUN ...

`recipe=prune` prunes each run to half of its multiply-adds and trains it further. The same narrow network is also
trained from random weights, for as many epochs as the run and the pruned network together, with the same overrides.
"""

import json
import math
import sys
from pathlib import Path
from statistics import fmean, stdev

from hydra import compose
from scipy.stats import t as student

from benchmarks.document import DOCS, machines, markdown, write_block
from visiontune.compress import apply_step
from visiontune.compression import TrainStep
from visiontune.config.compose import initialized
from visiontune.nodes import build
from visiontune.runs.directory import RunDirectory

FROM_SCRATCH = ["backbone.weights=null", "probe=false", "strategy=full", "strategy.batchnorm=train"]


def compare(run: RunDirectory) -> list[RunDirectory]:
    """The run, the pruned run, the pruned and trained run, and the narrow network trained directly."""
    folder = run.path / "compressed" / "prune"
    with initialized(None):
        recipe = compose("compress", overrides=[f"run={run.path}", "recipe=prune"]).recipe
        pruned = apply_step(build(recipe.steps.prune, "recipe.steps.prune", "a step"), run, folder / "0_prune")
        trained = apply_step(build(recipe.steps.train, "recipe.steps.train", "a step"), pruned, folder / "1_train")
        epochs = sum(part.read_config().trainer.max_epochs for part in (run, trained))
        direct = TrainStep([*FROM_SCRATCH, f"epochs={epochs}"], from_source=False)
        return [run, pruned, trained, apply_step(direct, pruned, folder / "direct")]


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    comparisons = [compare(RunDirectory.open(Path(path))) for path in sys.argv[1:]]
    names = ["the run", "pruned, not yet trained", "pruned and trained", "the narrow network alone"]
    rows = []
    for name, runs in zip(names, zip(*comparisons, strict=True), strict=True):
        rows.append([name])
        for split in ("val", "test"):
            metric = runs[0].read_status()["objective"]["name"].replace("val/", f"{split}/")
            values = [json.loads(run.metrics.read_text())[metric] for run in runs]
            half = student.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
            rows[-1].append(f"{fmean(values):.3f} +- {half:.3f}")
    columns = ["network", "val", "test"]
    write_block(
        "prune", f"{machines([runs[0] for runs in comparisons])}.\n\n{markdown(columns, rows)}", DOCS / "compression.md"
    )


if __name__ == "__main__":
    main()
