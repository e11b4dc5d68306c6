"""The mean of the weights of several runs."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from running import Command, Outcome
from torch import Tensor

from visiontune.analysis import results
from visiontune.config.derive import derive
from visiontune.data.recorded import read_rows
from visiontune.runs import RunDirectory
from visiontune.runs.files import save_atomically, write_json
from visiontune.runs.predictions import read_predictions
from visiontune.sweeps.soup import average_greedily
from visiontune.training.load import read_checkpoint

OBJECTIVE = "val/classification/accuracy"
WEIGHT = "heads.classification.linear.weight"


def scalar(value: float) -> dict[str, Tensor]:
    return {"w": torch.tensor(value), "steps": torch.tensor(round(value))}


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_a_run_is_added_unless_the_score_of_the_mean_becomes_worse(mode: str, sign: int) -> None:
    tried = []

    def score(state: dict[str, Tensor]) -> float:
        tried.append(state["w"].item())
        return sign * -abs(state["w"].item())  # best at 0

    states = [("a", scalar(2.0)), ("b", scalar(-2.0)), ("c", scalar(3.0)), ("d", scalar(0.0)), ("e", scalar(-6.0))]
    mean, candidates = average_greedily(iter(states), score, mode)
    assert tried == pytest.approx([2, 0, 1, 0, -1.5])  # the means of a, ab, abc, abd, abde
    assert [candidate.added for candidate in candidates] == [True, True, False, True, False]
    assert [candidate.score for candidate in candidates] == pytest.approx([-2 * sign, 0, -sign, 0, -1.5 * sign])
    assert mean["w"] == 0 and mean["steps"].dtype == torch.int64


def test_a_run_without_a_score_is_not_added() -> None:
    _, candidates = average_greedily(
        [("a", scalar(1.0)), ("b", scalar(2.0))], lambda state: 1.0 if state["w"] == 1 else float("nan"), "max"
    )
    assert [(candidate.added, candidate.score, candidate.reason) for candidate in candidates] == [
        (True, 1.0, ""),
        (False, None, "has no score"),
    ]


Change = Callable[[dict[str, Tensor]], None]


@pytest.fixture
def add(trained: Outcome, tmp_path: Path) -> Callable[..., RunDirectory]:
    """Add a copy of a trained run with other weights and another recorded objective."""
    source = trained.run

    def copy(name: str, value: float, change: Change = lambda state: None, **config: Any) -> RunDirectory:
        run = RunDirectory(copytree(source.path, tmp_path / "runs" / name))
        checkpoint = read_checkpoint(run.checkpoint("best"))
        change(checkpoint["state_dict"])
        save_atomically(run.checkpoints / "best.ckpt", checkpoint)
        status = run.read_status()
        write_json(run.status, status | {"objective": status["objective"] | {"value": value}})
        run.write_config(derive(run.read_config(), {"test": False} | config))
        return run

    return copy


def shift(noise: float) -> Change:
    """Weights of the head plus noise, which is large enough to change predictions."""

    def change(state: dict[str, Tensor]) -> None:
        state[WEIGHT] += noise * torch.randn(state[WEIGHT].shape, generator=torch.Generator().manual_seed(0))
        key = next(key for key in state if key.endswith("running_mean"))
        state[key] += noise

    return change


def test_the_soup_is_a_run(
    add: Callable[..., RunDirectory], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "write_report", lambda *_: {})
    middle = add("middle", 0.1)
    add("up", 0.9, shift(0.5))
    add("down", 0.8, shift(-0.5))
    folder = tmp_path / "runs"
    outcome = command("compare", folder, "soup=greedy")
    soup = outcome.run
    assert soup.path == folder / "soup" and soup.read_status()["status"] == "finished"
    record = json.loads((soup.path / "soup.json").read_text())
    assert [candidate["run"] for candidate in record["candidates"]] == ["up", "down", "middle"]
    assert [candidate["added"] for candidate in record["candidates"]] == [True, True, True]
    state = read_checkpoint(soup.checkpoint("best"))["state_dict"]
    expected = read_checkpoint(middle.checkpoint("best"))["state_dict"]
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value)
    score = middle.read_metrics()[OBJECTIVE]
    assert soup.read_metrics()[OBJECTIVE] == pytest.approx(score) == soup.read_status()["objective"]["value"]
    assert record["candidates"][-1]["score"] == pytest.approx(score)
    assert record["candidates"][0]["score"] < score
    assert {row["split"] for row in read_predictions(soup.predictions)} == {"val"}
    assert f"soup: {OBJECTIVE} {score:.4f}, the mean of 3 of 3 runs: up, down, middle" in outcome.out
    evaluated = command("evaluate", f"run={soup.path}", "split=val")
    assert evaluated.code == 0 and f"{score:.8f}" in evaluated.out
    assert "soup=greedy and has no training to resume" in command("train", f"run={soup.path}", "epochs=9").message
    assert command("compare", folder, "soup=greedy").run.path == folder / "soup_2"  # soups are not part of a soup


def test_no_run_is_made_if_no_other_run_helps(
    add: Callable[..., RunDirectory], command: Command, tmp_path: Path
) -> None:
    best = add("best", 0.9)

    def spoil(state: dict[str, Tensor]) -> None:
        state[WEIGHT] *= -3

    add("other", 0.8, spoil)
    outcome = command("compare", tmp_path / "runs", "soup=greedy")
    assert outcome.out.count("of the mean of the runs so far") == 1
    assert outcome.run.path == best.path and "worse than best alone" in outcome.out
    assert not (tmp_path / "runs/soup").exists()


def test_runs_that_cannot_be_averaged_are_left_out(
    add: Callable[..., RunDirectory], command: Command, tmp_path: Path
) -> None:
    add("best", 0.9)

    def widen(state: dict[str, Tensor]) -> None:
        state["more"] = torch.ones(3)

    add("seed", 0.8, seed=8)
    add("weights", 0.7, **{"backbone.weights": "other.pt"})
    add("wide", 0.6, widen)
    message = command("compare", tmp_path / "runs", "soup=greedy")
    assert message.code == 2
    for line in (
        "no other run has the architecture and the start of the best run best",
        "seed: starts from other random weights",
        "weights: starts from other pretrained weights",
        "wide: another architecture, 1 tensor differs",
    ):
        assert line in message.err


def test_runs_with_other_splits_are_refused(add: Callable[..., RunDirectory], command: Command, tmp_path: Path) -> None:
    add("best", 0.9)
    other = add("other", 0.8)
    path = next(row["path"] for row in read_rows(other.splits) if row["split"] == "val")
    other.splits.write_text(other.splits.read_text().replace(f"{path},val", f"{path},train"))
    assert "other has other splits than best" in command("compare", tmp_path / "runs", "soup=greedy").message
    assert not (tmp_path / "runs/soup").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["a", "soup=uniform"], "soup=uniform: expected soup=greedy"),
        (["a", "b", "soup=greedy"], "expected one sweep directory"),
        (["soup=greedy"], "expected a sweep directory"),
    ],
)
def test_wrong_arguments(command: Command, words: list[str], problem: str) -> None:
    assert problem in command("compare", *words).message
