"""Check that two runs are equal bit for bit."""

import csv
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from visiontune.runs import RunDirectory

STATE = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "visiontune", "strategy")


def history(run: RunDirectory) -> list[dict[str, str]]:
    """The rows of metrics.csv without the seconds."""
    with run.history.open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def curves(run: RunDirectory) -> dict[str, list[tuple[int, float]]]:
    """Name -> (step, value) of each curve in TensorBoard."""
    board = EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0, "images": 0})
    board.Reload()
    assert len(board.Images("first_batch")) == 1
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def assert_equal(first: Any, second: Any, where: str = "") -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for i, pair in enumerate(zip(first, second, strict=True)):
            assert_equal(*pair, f"{where}[{i}]")
    else:
        assert first == second, where


def check_training(whole: RunDirectory, resumed: RunDirectory) -> None:
    assert history(whole) == history(resumed)
    for which in ("best", "last"):
        first, second = (torch.load(run.checkpoint(which), weights_only=True) for run in (whole, resumed))
        for key in STATE:
            assert_equal(first[key], second[key], f"{which}/{key}")


def check_results(whole: RunDirectory, resumed: RunDirectory) -> None:
    assert whole.metrics.read_text() == resumed.metrics.read_text()
    assert whole.predictions.read_text() == resumed.predictions.read_text()
    assert curves(whole) == curves(resumed)
    assert len(curves(whole)["train/loss_step"]) > 2
