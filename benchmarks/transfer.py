"""Fine-tune from a whole pretrained model, from its backbone alone, and from ImageNet weights.

python -m benchmarks.transfer FAMILY data.root=FOLDER [--folder logs/transfer] [--seeds 3] [OVERRIDES ...]

FAMILY is faster_rcnn, fcos, rt_detr_v2 or lraspp. It is trained once on 4,000 generated scenes of digits, and then on
the training images of FOLDER and on some of them, which differ between the seeds. FOLDER has BCCD for the detectors,
and CamVid for lraspp. All runs on the same images have the same network and steps. A finished run is not
repeated. The table has all finished families for the same data. Other arguments go to the runs on FOLDER; with
`test=false` and another --folder they measure the validation split, to choose settings, and no table is written.
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

COMMON = ["strategy=full", "scheduler=one_cycle", "trainer=cpu", "logger=none"]
SCENES = ["data=digit_scenes", "data.scenes=5000", "data.image_size=96", "data.batch_size=8", "epochs=3", "test=false"]
TARGET = ["data.cache=memory", "data.num_workers=0"]


class Task(NamedTuple):
    """What the families for the same data have in common."""

    head: str
    block: str  # of docs/benchmarks.md
    metrics: list[str]  # the last one is compared
    target: list[str]  # overrides for the data of the second training
    subsets: dict[str, list[str]]  # overrides by training images; each run is validated only before and after training


class Family(NamedTuple):
    """A task, and overrides of the network, of the training on scenes, and of that on the target.

    `lr` has the learning rate on the target for each way to begin, chosen on the validation split.
    """

    task: Task
    network: list[str]
    scenes: list[str]
    target: list[str]
    lr: dict[str, float]


CELLS = Task(
    "detection",
    "transfer",
    ["map_50", "map"],
    ["data=voc", "data.on_bad_box=drop", "data.batch_size=4"],
    {
        "all": ["epochs=3", "+trainer.check_val_every_n_epoch=3"],
        "50": ["epochs=8", "+trainer.check_val_every_n_epoch=8", "data.limit_train=50"],
    },
)
STREETS = Task(
    "segmentation",
    "transfer_segmentation",
    ["pixel_accuracy", "miou"],
    [
        "data=masks",
        "data.images={train: train, val: val, test: test}",
        "data.masks={train: trainannot, val: valannot, test: testannot}",
        "data.classes=[sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist]",
        "data.ignore_value=11",
        "data.batch_size=8",
    ],
    {
        "all": ["epochs=12", "+trainer.check_val_every_n_epoch=12"],
        "24": ["epochs=24", "+trainer.check_val_every_n_epoch=24", "data.limit_train=24"],
    },
)
ANCHORS = "[16,32,64,128]"
FAMILIES = {
    # Smaller than fasterrcnn_mobilenet_v3_large_320_fpn, with anchors for half its image size.
    "faster_rcnn": Family(
        CELLS,
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
        ["data.image_size=[120,160]"],
        {"whole": 1e-3, "backbone": 5e-4, "imagenet": 5e-4},
    ),
    # pretrained=fcos_resnet50_fpn on a smaller backbone, with half of the channels and convolutions.
    "fcos": Family(
        CELLS,
        ["heads.detection.detector=fcos", "heads.detection.convs=2"],
        ["optimizer.lr=1e-3"],
        ["data.image_size=[120,160]"],
        {"whole": 2e-3, "backbone": 1e-3, "imagenet": 1e-3},
    ),
    # Sides are multiples of 32, since the maps of strides 16 and 32 are enlarged by 2.
    "rt_detr_v2": Family(
        CELLS,
        [
            "heads.detection.detector=rt_detr_v2",
            "heads.detection.transformer={d_model: 128, encoder_hidden_dim: 128, encoder_ffn_dim: 256, "
            "decoder_ffn_dim: 256, decoder_layers: 2, num_queries: 100, num_denoising: 50, hidden_expansion: 0.5}",
        ],
        ["optimizer.lr=5e-4"],
        ["data.image_size=[128,160]"],
        {"whole": 5e-4, "backbone": 5e-4, "imagenet": 5e-4},
    ),
    # The decoder of lraspp_mobilenet_v3_large.
    "lraspp": Family(
        STREETS,
        [
            "heads.segmentation.decoder=lraspp",
            "heads.segmentation.norm=batch",
            "heads.segmentation.dropout=0",
        ],
        ["optimizer.lr=2e-3"],
        ["data.image_size=[96,128]"],
        {"whole": 4e-3, "backbone": 8e-3, "imagenet": 4e-3},
    ),
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


def row(task: Task, runs: list[RunDirectory], reference: list[RunDirectory]) -> list[str]:
    """Mean and range of the metrics of an arm, and its difference from the runs of the same seeds in `reference`."""
    values, others = [[read_metrics(run, task) for run in members] for members in (runs, reference)]
    cells = [f"{fmean(column):.3f} ({min(column):.3f} to {max(column):.3f})" for column in zip(*values, strict=True)]
    gains = [f"{value[-1] - other[-1]:+.3f}" for value, other in zip(values, others, strict=True)]
    return [*cells, "" if runs is reference else ", ".join(gains), str(len(runs)), str(steps(runs[0]))]


def steps(run: RunDirectory) -> int:
    """Number of training steps."""
    with run.history.open(newline="") as file:
        return int(list(csv.DictReader(file))[-1]["step"])


def read_metrics(run: RunDirectory, task: Task) -> list[float]:
    """The values on the test split, of a run with `test=false` on the validation split."""
    values = json.loads(run.metrics.read_text())
    return [values.get(f"test/{task.head}/{metric}", values[f"val/{task.head}/{metric}"]) for metric in task.metrics]


def table(folder: Path, task: Task) -> str:
    """All families of the task in the folder, with the seeds that have finished with every arm."""
    rows, used = [], []
    for family in [name for name, family in FAMILIES.items() if family.task is task]:
        for subset in task.subsets:
            place = folder / family / subset
            seeds = sorted({path.name for path in place.glob("*/*")})
            finished = [seed for seed in seeds if all(is_finished(place / arm / seed) for arm in ARMS)]
            runs = {arm: [RunDirectory.open(place / arm / seed) for seed in finished] for arm in ARMS}
            if finished:
                rows += [[family, subset, ARMS[arm][0], *row(task, runs[arm], runs["backbone"])] for arm in ARMS]
            used += [run for members in runs.values() for run in members]
    columns = ["network", "training images", "weights", *(f"test {metric}" for metric in task.metrics)]
    columns += [f"{task.metrics[-1]} minus that of the backbone alone, by seed", "runs", "steps"]
    return f"{machines(used)}.\n\n{markdown(columns, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--folder", type=Path, default=Path("logs/transfer"), help="of all runs")
    parser.add_argument("--seeds", type=int, default=3, help="number of runs with the same weights and images")
    options, overrides = parser.parse_known_args()
    place = options.folder / options.family
    task, network, scenes, target, lr = FAMILIES[options.family]
    network = [f"heads={task.head}", *network]
    pretrained = train(place / "pretrained", [*SCENES, *network, *scenes])
    for seed in range(options.seeds):
        for subset, length in task.subsets.items():
            for arm, (_, weights) in ARMS.items():
                keys = [*TARGET, *task.target, *network, *target, *length, f"optimizer.lr={lr[arm]}"]
                keys += [weights.format(run=pretrained.path), *overrides, f"seed={seed}"]
                train(place / subset / arm / str(seed), keys)
    text = table(options.folder, task)
    print(text)
    if "test=false" not in overrides:
        write_block(task.block, text)


if __name__ == "__main__":
    main()
