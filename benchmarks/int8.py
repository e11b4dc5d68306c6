"""Measure the costs and benefits of recipe=int8. For docs/compression.md.

python -m benchmarks.int8 RUN ...

Each run is quantized (to RUN/compressed/int8, unless it exists). The table has the monitored metric on the test split,
and how many predictions on all images stay the same. Latency is that of one image, from pixels to prediction, on one
thread, with both models in turn.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from hydra import compose

from benchmarks.document import COMPRESSION, machine, markdown, write_block
from visiontune.compress import apply_step
from visiontune.compression.measuring import input_images
from visiontune.compression.timing import time_alternately
from visiontune.compression.variants import eager_variant
from visiontune.config.compose import initialized
from visiontune.deployment.evaluation import evaluate_run
from visiontune.models.heads import ClassificationHead
from visiontune.nodes import build
from visiontune.runs.directory import RunDirectory
from visiontune.training.build import build_data
from visiontune.training.load import load_model

ROUNDS = 25
COLUMNS = [
    "network",
    "data",
    "pixels",
    "metric of the test split",
    "float",
    "int8",
    "same answers",
    "faster",
    "smaller",
]


def row(run: RunDirectory, quantized: RunDirectory) -> list[str]:
    """The row of a run and its quantized run."""
    cfg, values, answers = run.read_config(), [], []
    data = build_data(cfg)
    data.assign_as(run.splits)
    for each in (run, quantized):
        model, _ = load_model(each, cfg)
        results = [evaluate_run(each, each.read_config(), model, data, split) for split in ("train", "val", "test")]
        name = model.monitor[0].replace("val/", "test/")
        values.append(results[2].metrics[name])
        answers.append({row.path: row.prediction for result in results for row in result.rows})
    same = sum(answer == answers[1][path] for path, answer in answers[0].items())
    comparable = all(isinstance(head, ClassificationHead) for head in model.heads.values())
    pair = {"float": run, "int8": quantized}
    variants = {name: eager_variant(name, each, each.read_config()) for name, each in pair.items()}
    calls = {name: partial(variant.call, input_images(variant, 1)) for name, variant in variants.items()}
    faster = time_alternately(calls, ROUNDS)["int8"].faster
    return [
        str(cfg.backbone.name),
        str(cfg.name),
        " x ".join(map(str, data.image_size)),
        name.removeprefix("test/"),
        *(f"{value:.4f}" for value in values),
        f"{same} of {len(answers[0])}" if comparable else "-",
        f"{faster:.1f}",
        f"{variants['float'].megabytes / variants['int8'].megabytes:.2f}",
    ]


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    runs, rows = [RunDirectory.open(Path(path)) for path in sys.argv[1:]], []
    torch.set_num_threads(1)
    with initialized(None):
        recipe = compose("compress", overrides=["run=RUN", "recipe=int8"]).recipe
        step = build(recipe.steps.int8, "recipe.steps.int8", "a step")
    for run in runs:
        rows.append(row(run, apply_step(step, run, run.path / "compressed" / "int8" / "0_int8")))
        print(markdown(COLUMNS, rows[-1:]).splitlines()[-1], flush=True)
    write_block("int8", f"{machine()}.\n\n{markdown(COLUMNS, rows)}", COMPRESSION)


if __name__ == "__main__":
    main()
