"""Read the scalars and images of a run from each tracking tool.

Scalars are `{name: [(step, value), ...]}` in 32 bits, as in TensorBoard; images have pixels in place of a value.
"""

import csv
import json
import re
import struct
from collections import defaultdict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Scalars = dict[str, list[tuple[int, float]]]
Images = dict[str, list[tuple[int, list]]]


def in_order(points: dict[str, list[tuple[int, float]]]) -> Scalars:
    return {name: sorted((step, float(np.float32(value))) for step, value in points[name]) for name in sorted(points)}


def pixels(file: Any) -> list:
    return np.asarray(Image.open(file).convert("RGB")).tolist()


def from_tensorboard(run: Path) -> tuple[Scalars, Images]:
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    board.Reload()
    tags = board.Tags()
    scalars = {name: [(event.step, event.value) for event in board.Scalars(name)] for name in tags["scalars"]}
    images = {
        name: [(event.step, pixels(BytesIO(event.encoded_image_string))) for event in board.Images(name)]
        for name in tags["images"]
    }
    return in_order(scalars), images


def from_csv(run: Path) -> Scalars:
    points = defaultdict(list)
    with (run / "csv" / "scalars.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            points[row["name"]].append((int(row["step"]), float(row["value"])))
    return in_order(points)


def wandb_records(run: Path) -> Iterator[tuple[Path, Any]]:
    """The records of all offline files of a run, oldest first, each with the folder of its files."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        content, position, parts = path.read_bytes(), 7, b""  # after the file's header: the log format of LevelDB
        while position + 7 <= len(content):
            remaining = 32768 - position % 32768
            if remaining < 7:
                position += remaining
                continue
            _, length, kind = struct.unpack("<IHB", content[position : position + 7])
            if kind == 0:
                break
            parts += content[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):  # a whole record, or its last part
                record = Record()
                record.ParseFromString(parts)
                parts = b""
                yield path.parent / "files", record


def from_wandb(run: Path) -> tuple[Scalars, Images]:
    scalars, images = defaultdict(list), defaultdict(list)
    for files, record in wandb_records(run):
        if record.WhichOneof("record_type") != "history":
            continue
        row = {tuple(item.nested_key) or (item.key,): json.loads(item.value_json) for item in record.history.item}
        step = row.pop(("trainer/global_step",))
        for (name, *parts), value in row.items():
            if parts == ["path"]:  # the file of an image
                images[name].append((step, pixels(files / value)))
            elif not parts and not name.startswith("_"):
                scalars[name].append((step, value))
    return in_order(scalars), images


def from_mlflow(uri: str, run_id: str) -> tuple[Scalars, Images]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    run = client.get_run(run_id)
    scalars = {
        name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
        for name in run.data.metrics
    }
    images = defaultdict(list)
    for path in sorted(Path(run.info.artifact_uri.removeprefix("file://"), "images").glob("*.png")):
        name, step = re.fullmatch(r"(.*)\+step\+(\d+)\+.*", path.stem).groups()  # type: ignore[union-attr]
        images[name.replace("~", "/")].append((int(step), pixels(path)))
    return in_order(scalars), images


def check_same(scalars_and_images: tuple[Scalars, Images], others: tuple[Scalars, Images]) -> None:
    for points, other in zip(scalars_and_images, others, strict=True):
        assert points.keys() == other.keys()
        for name in points:
            if name == "epoch":  # Lightning logs it several times at one step
                assert set(points[name]) == set(other[name])
            else:
                assert points[name] == other[name], name
