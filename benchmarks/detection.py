"""Compare `visiontune train` with a loop written by hand around torchvision's FCOS, on the same data set.

python -m benchmarks.detection data.root=VOC_FOLDER [--epochs 5] [--lr 5e-4] [--seeds 3] [OVERRIDES ...]

The loop has the same weights, FPN width, input size and batch size, with AdamW, a one-cycle schedule and flips. Both
are measured by the same metrics on the validation and test splits; with `test=false` on the validation split only, to
choose settings. All other arguments go to `visiontune train heads=detection data=voc`.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict

import torch
from hydra import compose
from omegaconf import DictConfig
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchmarks.document import machine, markdown, write_block
from visiontune.config.compose import initialized
from visiontune.data import VisionData
from visiontune.models.backbones import build
from visiontune.models.heads.coco_metrics import CocoMetrics
from visiontune.runs import RunDirectory
from visiontune.training.build import build_data

TASK, METRICS = "detection", ("map_50", "map")


class Body(nn.Module):
    """EfficientNet-Lite0 with a feature pyramid of 128 channels on its strides 8, 16 and 32, as FCOS expects."""

    def __init__(self) -> None:
        super().__init__()
        self.network, _ = build("tf_efficientnet_lite0")
        self.pyramid = FeaturePyramidNetwork(self.network.channels[-3:], 128, LastLevelP6P7(128, 128))
        self.out_channels = 128

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = self.network(image).maps[-3:]
        return self.pyramid(OrderedDict((str(i), level) for i, level in enumerate(maps)))


def train_by_hand(data: VisionData, epochs: int, lr: float, seed: int) -> tuple[nn.Module, float]:
    """Train the loop; return the model and the seconds of its training."""
    torch.manual_seed(seed)
    classes = data.schema[TASK].classes
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    height, width = data.image_size
    model = FCOS(
        Body(), len(classes), min_size=min(height, width), max_size=max(height, width), anchor_generator=anchors,
        image_mean=[0.0] * 3, image_std=[1.0] * 3,
    ).to(memory_format=torch.channels_last)  # fmt: skip
    steps = epochs * len(data.train_dataloader())
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    started = time.perf_counter()
    for epoch in range(epochs):
        model.train()
        loader = data.train_dataloader()
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            batch = data.to_network(batch)
            losses = model([*batch["image"]], batch["targets"][TASK])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            schedule.step()
    return model, time.perf_counter() - started


@torch.inference_mode()
def measure(model: nn.Module, data: VisionData, split: str) -> dict[str, float]:
    """COCO's metrics of a torchvision detector."""
    metrics = CocoMetrics(data.schema[TASK].classes)
    model.eval()
    for batch in data.eval_loader(split):
        predictions = model([*data.to_network(batch)["image"]])
        for frame, prediction in zip(batch["frame"], predictions, strict=True):
            prediction["boxes"] = frame.boxes(prediction["boxes"])
        metrics.update(predictions, batch["truth"][TASK])
    return {name: float(value) for name, value in metrics.compute().items() if value.numel() == 1}


def config(overrides: list[str]) -> DictConfig:
    with initialized(None):
        return compose("train", overrides=[f"heads={TASK}", "data=voc", *overrides])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5, help="of the loop; epochs=N sets those of visiontune")
    parser.add_argument("--lr", type=float, default=5e-4, help="of the loop; optimizer.lr=X sets that of visiontune")
    parser.add_argument("--seeds", type=int, default=1, help="number of trainings of each")
    options, overrides = parser.parse_known_args()
    splits = ["val", "test"] if config(overrides).test else ["val"]
    rows: list[list[str]] = []
    for seed in range(options.seeds):
        data = build_data(config([*overrides, "augment=none", "augment.flip=true", f"seed={seed}"]))
        model, seconds = train_by_hand(data, options.epochs, options.lr, seed)
        rows.append(row("loop by hand", seed, [measure(model, data, split) for split in splits], seconds))
        print(rows[-1], flush=True)
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "visiontune", "train", f"heads={TASK}", "data=voc", *overrides]
            subprocess.run([*command, f"seed={seed}", f"run_dir={folder}/run"], check=True)
            run = RunDirectory.open(f"{folder}/run")
            rows.append(row("visiontune", seed, [read_metrics(run, split) for split in splits], training_seconds(run)))
        print(rows[-1], flush=True)
    rows.sort(key=lambda cells: cells[0])
    names = [f"{split} {name}" for split in splits for name in METRICS]
    text = f"{machine()}.\n\n" + markdown(["training", "seed", *names, "training time"], rows)
    print(text)
    if "test" in splits:
        write_block("detection", text)


def row(name: str, seed: int, results: list[dict[str, float]], seconds: float) -> list[str]:
    numbers = [f"{metrics[metric]:.3f}" for metrics in results for metric in METRICS]
    return [name, str(seed), *numbers, f"{seconds:.0f} s"]


def read_metrics(run: RunDirectory, split: str) -> dict[str, float]:
    metrics = json.loads(run.metrics.read_text())
    return {name: metrics[f"{split}/{TASK}/{name}"] for name in METRICS}


def training_seconds(run: RunDirectory) -> float:
    with run.history.open(newline="") as file:
        return float(list(csv.DictReader(file))[-1]["seconds"])


if __name__ == "__main__":
    main()
