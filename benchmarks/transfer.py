"""Fine-tune a detector from a whole pretrained model, from its backbone alone, and from ImageNet weights.

python -m benchmarks.transfer FAMILY data.root=VOC_FOLDER [--folder logs/transfer] [--seeds 3] [OVERRIDES ...]

FAMILY is faster_rcnn or rt_detr_v2. It is trained once on 4,000 generated scenes of digits, and then on the training
images of VOC_FOLDER and on 50 of them, which differ between the seeds. All runs on the same images have the same
network, steps and settings. A finished run is not repeated. The table has all finished families of the folder. Other
arguments go to the runs on VOC_FOLDER; with `test=false` and another --folder they measure the validation split, to
choose settings, and no table is written.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmarks.document import machines, markdown, write_block
from visiontune.runs import RunDirectory

METRICS = ("map_50", "map")
COMMON = ["heads=detection", "strategy=full", "scheduler=one_cycle", "trainer=cpu", "logger=none"]
SCENES = ["data=digit_scenes", "data.scenes=5000", "data.image_size=96", "data.batch_size=8", "epochs=3", "test=false"]
TARGET = ["data=voc", "data.on_bad_box=drop", "data.batch_size=4", "data.cache=memory", "data.num_workers=0"]


class Family(NamedTuple):
    """Overrides of the network, of the training on scenes, and of that on the target."""

    network: list[str]
    scenes: list[str]
    target: list[str]


ANCHORS = "[16,32,64,128]"
FAMILIES = {
    # Smaller than fasterrcnn_mobilenet_v3_large_320_fpn, with anchors for half its image size. The learning rate on the
    # target was chosen on the validation split.
    "faster_rcnn": Family(
        [
            "heads.detection.detector=faster_rcnn",
            "heads.detection.min_stride=8",
            f"heads.detection.anchor_sizes=[{','.join([ANCHORS] * 4)}]",
            "heads.detection.anchor_strides=image",
            "heads.detection.candidates=150",
            "heads.detection.proposals=100",
            "heads.detection.samples=64",
            "heads.detection.hidden=256",
        ],
        ["optimizer.lr=1e-3"],
        ["optimizer.lr=5e-4", "data.image_size=[120,160]"],
    ),
    # Sides are multiples of 32, since the maps of strides 16 and 32 are enlarged by 2.
    "rt_detr_v2": Family(
        [
            "heads.detection.detector=rt_detr_v2",
            "heads.detection.transformer={d_model: 128, encoder_hidden_dim: 128, encoder_ffn_dim: 256, "
            "decoder_ffn_dim: 256, decoder_layers: 2, num_queries: 100, num_denoising: 50, hidden_expansion: 0.5}",
        ],
        ["optimizer.lr=5e-4"],
        ["optimizer.lr=5e-4", "data.image_size=[128,160]"],
    ),
}
# By training images. Each run is validated before the first step and after the last one.
SUBSETS = {
    "all": ["epochs=3", "+trainer.check_val_every_n_epoch=3"],
    "50": ["epochs=8", "+trainer.check_val_every_n_epoch=8", "data.limit_train=50"],
}
ARMS = {
    "whole": ("backbone, neck and head", "weights_from={run}"),
    "backbone": ("backbone alone", "backbone.weights={run}"),
    "imagenet": ("ImageNet backbone", "backbone.weights=auto"),
}


def train(place: Path, overrides: list[str]) -> RunDirectory:
    """Train a run in `place` unless a finished one is there."""
    if not is_finished(place):
        command = [sys.executable, "-m", "visiontune", "train", *COMMON, *overrides, f"run_dir={place}"]
        subprocess.run(command, check=True)
    return RunDirectory.open(place)


def is_finished(place: Path) -> bool:
    return (place / "status.json").is_file() and RunDirectory.open(place).finished


def row(family: str, subset: str, arm: str, runs: list[RunDirectory], reference: list[RunDirectory]) -> list[str]:
    """Mean and range of the metrics of an arm, and its difference from the runs of the same seeds in `reference`."""
    cells = [family, subset, ARMS[arm][0]]
    for metric in METRICS:
        values = [read_metric(run, metric) for run in runs]
        cells.append(f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    gains = [read_metric(run, "map") - read_metric(other, "map") for run, other in zip(runs, reference, strict=True)]
    cells.append("" if runs is reference else ", ".join(f"{gain:+.3f}" for gain in gains))
    return [*cells, str(len(runs)), str(steps(runs[0]))]


def steps(run: RunDirectory) -> int:
    """Number of training steps."""
    with run.history.open(newline="") as file:
        return int(list(csv.DictReader(file))[-1]["step"])


def read_metric(run: RunDirectory, metric: str) -> float:
    """The value on the test split, of a run with `test=false` on the validation split."""
    metrics = json.loads(run.metrics.read_text())
    return float(metrics.get(f"test/detection/{metric}", metrics[f"val/detection/{metric}"]))


def table(folder: Path) -> str:
    """All families of the folder, with the seeds that have finished with every arm."""
    rows, used = [], []
    for family in FAMILIES:
        for subset in SUBSETS:
            place = folder / family / subset
            seeds = sorted({path.name for path in place.glob("*/*")})
            finished = [seed for seed in seeds if all(is_finished(place / arm / seed) for arm in ARMS)]
            runs = {arm: [RunDirectory.open(place / arm / seed) for seed in finished] for arm in ARMS}
            rows += [row(family, subset, arm, runs[arm], runs["backbone"]) for arm in ARMS if finished]
            used += [run for members in runs.values() for run in members]
    columns = ["detector", "training images", "weights", *(f"test {metric}" for metric in METRICS)]
    columns += ["map minus that of the backbone alone, by seed", "runs", "steps"]
    return f"{machines(used)}.\n\n{markdown(columns, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--folder", type=Path, default=Path("logs/transfer"), help="of all runs")
    parser.add_argument("--seeds", type=int, default=3, help="number of runs with the same weights and images")
    options, overrides = parser.parse_known_args()
    place = options.folder / options.family
    family = FAMILIES[options.family]
    pretrained = train(place / "pretrained", [*family.network, *SCENES, *family.scenes])
    for seed in range(options.seeds):
        for subset, length in SUBSETS.items():
            for arm, (_, weights) in ARMS.items():
                keys = [*family.network, *TARGET, *family.target, *length, weights.format(run=pretrained.path)]
                train(place / subset / arm / str(seed), [*keys, *overrides, f"seed={seed}"])
    text = table(options.folder)
    print(text)
    if "test=false" not in overrides:
        write_block("transfer", text)


if __name__ == "__main__":
    main()
