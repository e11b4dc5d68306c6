"""Detection side by side: a loop written by hand around torchvision's FCOS, then `visiontune train`, on the same set.

python -m benchmarks.detection data.root=VOC_FOLDER [--epochs 5] [OVERRIDES ...]

The loop has the same weights, FPN width, input size and batch size; AdamW, one-cycle, flips. Both are measured on the
test split by the same metric. Whatever else is on the command line goes to `visiontune train heads=detection data=voc`.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchmarks.document import machine, markdown, write_block
from visiontune.backbones import build
from visiontune.build import data_of
from visiontune.cli import config_dir
from visiontune.data import VisionData
from visiontune.heads.coco_metrics import CocoMetrics
from visiontune.runs import RunDirectory

TASK = "detection"


class Body(nn.Module):
    """EfficientNet-Lite0 and a feature pyramid of 128 channels on its strides 8, 16 and 32, as FCOS wants them."""

    def __init__(self) -> None:
        super().__init__()
        self.network, _ = build("tf_efficientnet_lite0")
        self.pyramid = FeaturePyramidNetwork(self.network.channels[-3:], 128, LastLevelP6P7(128, 128))
        self.out_channels = 128

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = self.network(image).maps[-3:]
        return self.pyramid(OrderedDict((str(i), level) for i, level in enumerate(maps)))


def by_hand(data: VisionData, epochs: int) -> tuple[dict[str, float], float]:
    """Metrics on the test split, and seconds of training."""
    torch.manual_seed(0)
    classes = data.schema[TASK].classes
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    height, width = data.image_size
    model = FCOS(
        Body(), len(classes), min_size=min(height, width), max_size=max(height, width), anchor_generator=anchors,
        image_mean=[0.0] * 3, image_std=[1.0] * 3,
    ).to(memory_format=torch.channels_last)  # fmt: skip
    steps = epochs * len(data.train_dataloader())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-4, total_steps=steps)
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
    seconds = time.perf_counter() - started
    return measure(model, data), seconds


@torch.inference_mode()
def measure(model: nn.Module, data: VisionData) -> dict[str, float]:
    metrics = CocoMetrics(data.schema[TASK].classes)
    model.eval()
    for batch in data.eval_loader("test"):
        found = model([*data.to_network(batch)["image"]])
        for frame, one in zip(batch["frame"], found, strict=True):
            one["boxes"] = frame.boxes(one["boxes"])
        metrics.update(found, batch["truth"][TASK])
    return {name: float(value) for name, value in metrics.compute().items() if value.numel() == 1}


def config(overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("train", overrides=[f"heads={TASK}", "data=voc", *overrides])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5, help="of the loop; ours are set by epochs=N")
    options, overrides = parser.parse_known_args()
    data = data_of(config([*overrides, "augment=none", "augment.flip=true"]))
    rows: list[list[str]] = []
    loop, seconds = by_hand(data, options.epochs)
    rows.append(["loop by hand", *(f"{loop[name]:.3f}" for name in ("map_50", "map")), f"{seconds:.0f} s"])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "visiontune", "train", f"heads={TASK}", "data=voc", *overrides]
        subprocess.run([*command, f"run_dir={folder}/run"], check=True)
        rows.append(row_of(RunDirectory.open(f"{folder}/run")))
    text = f"{machine()}.\n\n" + markdown(["training", "test map_50", "test map", "training time"], rows)
    print(text)
    write_block("detection", text)


def row_of(run: RunDirectory) -> list[str]:
    import csv
    import json

    metrics: dict[str, Any] = json.loads(run.metrics.read_text())
    with Path(run.history).open(newline="") as file:
        seconds = float(list(csv.DictReader(file))[-1]["seconds"])
    numbers = (f"{metrics[f'test/{TASK}/{name}']:.3f}" for name in ("map_50", "map"))
    return ["visiontune", *numbers, f"{seconds:.0f} s"]


if __name__ == "__main__":
    main()
