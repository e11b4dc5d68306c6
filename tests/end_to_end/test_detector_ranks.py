"""Two ranks (gloo) train detectors with equal weights, while stages unfreeze and some batches have no objects."""

import json
import socket
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from running import SMALL
from test_two_processes import largest_difference
from watching import fit_all

from visiontune.runs import RunDirectory
from visiontune.runs.log import logging_to
from visiontune.train import record
from visiontune.training.fit import prepare

SIDE, IMAGES, EPOCHS = 64, 8, 3
D_FINE = "{d_model: 32, encoder_hidden_dim: 32, decoder_layers: 2, num_queries: 9, num_denoising: 9, depth_mult: 0.34}"
DETECTORS = {
    "faster_rcnn": ["channels=16", "hidden=16", "proposals=9", "samples=8"],
    "d_fine": [f"transformer={D_FINE}"],
}
TRAINING = ["optimizer.lr=1e-3", "strategy.head_epochs=1", "strategy.unfrozen_by=0.7", "augment=none", "technique=none"]


def write_images(root: Path) -> list[str]:
    """Images of which every second has two objects; overrides that read them."""
    annotations = {}
    for split in ("train", "val"):
        (root / split).mkdir()
        noise = np.random.default_rng(0).integers(0, 255, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
        for i, pixels in enumerate(noise):
            Image.fromarray(pixels).save(root / split / f"{split}{i}.png")
        size = {"width": SIDE, "height": SIDE}
        box = {"bbox": [10, 8, 20, 24], "area": 480, "iscrowd": 0}
        rows = [{"image_id": i, "category_id": k, **box} for i in range(0, IMAGES, 2) for k in (1, 2)]
        content = {
            "images": [{"id": i, "file_name": f"{split}{i}.png", **size} for i in range(IMAGES)],
            "annotations": [{"id": i + 1, **row} for i, row in enumerate(rows)],
            "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "cat"}],
        }
        annotations[split] = f"{split}.json"
        (root / annotations[split]).write_text(json.dumps(content))
    return [
        "data=coco",
        f"data.root={root}",
        "data.images={train: train, val: val}",
        "data.annotations={train: train.json, val: val.json}",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_ranks_are_equal_though_one_has_no_objects(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    """A D-FINE has constants that DDP does not synchronise."""
    data = write_images(tmp_path)
    paths = []
    for name, options in DETECTORS.items():
        run = RunDirectory.create(tmp_path / name)
        watch = ["+callbacks.weights._target_=watching.Weights", f"+callbacks.weights.folder='{run.path}'"]
        head = ["heads=detection", f"heads.detection.detector={name}", *(f"heads.detection.{key}" for key in options)]
        small = [*SMALL, "data.image_size=64", "backbone.widths=[4,4,8,8,8]", "data.batch_size=1", "logger=none"]
        lengths = [f"trainer.max_epochs={EPOCHS}", "trainer.limit_val_batches=1", "test=false", "trainer=ddp_cpu"]
        run.write_config(config(*small, *data, *head, *lengths, *TRAINING, *watch, base=[]))
        with logging_to(None, quiet=True):
            cfg = run.read_config()
            record(cfg, run, prepare(cfg)[0], [])
        paths.append(run.path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(fit_all, (2, port, paths), nprocs=2)
    for path in paths:
        first, second = (torch.load(path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
        assert largest_difference(first, second) == 0.0, path.name
        for part in ("backbone.model.block5", "heads"):
            keys = [key for key in first[0] if key.startswith(f"trained/{part}")]
            changes = [any(not torch.equal(a[key], b[key]) for key in keys) for a, b in pairwise(first)]
            assert changes == ([True] * EPOCHS if part == "heads" else [False, True, True]), (path.name, part)
