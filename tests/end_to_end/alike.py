"""Whether two runs are the same, bit for bit."""

import csv
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from visiontune.runs import RunDirectory

STATE = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "visiontune", "strategy")


def history(run: RunDirectory) -> list[dict[str, str]]:
    """The rows of metrics.csv without the time."""
    with run.history.open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def curves(run: RunDirectory) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every curve that TensorBoard shows."""
    board = EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0, "images": 0})
    board.Reload()
    assert len(board.Images("first_batch")) == 1
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def same(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{where}[{i}]")
    else:
        assert one == other, where


def check_training(one: RunDirectory, other: RunDirectory) -> None:
    assert history(one) == history(other)
    for which in ("best", "last"):
        first, second = (torch.load(run.checkpoint(which), weights_only=True) for run in (one, other))
        for key in STATE:
            same(first[key], second[key], f"{which}/{key}")


def check_results(one: RunDirectory, other: RunDirectory) -> None:
    assert one.metrics.read_text() == other.metrics.read_text()
    assert one.predictions.read_text() == other.predictions.read_text()
    assert curves(one) == curves(other)
    assert len(curves(one)["train/loss_step"]) > 2
