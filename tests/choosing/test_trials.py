"""`strategy=auto` tries, chooses by the validation split, and says what it tried."""

import csv
from typing import Any

import pytest
from omegaconf import DictConfig
from running import Command

from visiontune import train as training
from visiontune.choosing import trials
from visiontune.runs import RunDirectory

SETTINGS = ["trainer.max_epochs=4", "data.limit_train=100", "augment=none", "probe=true"]


def rows(run: RunDirectory) -> list[dict[str, str]]:
    with (run.report / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Strategy -> the score that its trial has instead of its own; negative where the range test's rate is used."""
    given: dict[str, float] = {}
    whole = trials._tried

    def tried(cfg: DictConfig, way: DictConfig, name: str, train: Any) -> Any:
        trial, objective = whole(cfg, way, name, train)
        return trials.Trial(**{**trial.__dict__, "score": given[name]}), objective

    monkeypatch.setattr(trials, "_tried", tried)
    return given


def test_the_best_on_val_is_trained(command: Command, tiny: list[str], scores: dict[str, float]) -> None:
    scores |= {"linear_probe": 0.5, "norm_only": 0.7}
    arguments = [*tiny, *SETTINGS, "strategy=[auto,l2_sp]", "strategy.candidates=[linear_probe,norm_only]"]
    outcome = command("train", *arguments)
    run = outcome.run
    cfg = run.read_config()
    assert cfg.strategy._target_ == "visiontune.strategies.NormOnly" and "l2_sp" in cfg.callbacks
    assert cfg.trainer.max_epochs == 4 and cfg.data.limit_train == 100  # the run itself is whole
    found = rows(run)
    assert [row["strategy"] for row in found] == ["linear_probe", "norm_only", "norm_only"]
    assert [(row["epochs"], row["pictures"]) for row in found] == [("3", "50")] * 3
    assert float(found[2]["lr"]) != float(found[0]["lr"]) == pytest.approx(5e-4)  # once more at the range test's rate
    assert cfg.optimizer.lr == pytest.approx(5e-4)  # which is no better here
    assert "trials" in outcome.out and (run.report / "lr_range.png").is_file()
    assert not [line for line in outcome.out.splitlines()[:5] if "/run" in line]  # nothing of the trials' own output


def test_a_rate_of_the_command_line_stays(command: Command, tiny: list[str], scores: dict[str, float]) -> None:
    scores |= {"linear_probe": 0.5, "full": 0.5}
    arguments = [*tiny, *SETTINGS, "strategy=auto", "strategy.candidates=[full,linear_probe]", "optimizer.lr=1e-3"]
    run = command("train", *arguments).run
    assert run.read_config().strategy._target_ == "visiontune.strategies.Full"  # of equal scores the first
    assert [float(row["lr"]) for row in rows(run)] == [1e-3, 1e-3]


def test_the_test_split_is_not_looked_at(command: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    whole = training.evaluate

    def evaluate(model: Any, data: Any, split: str, *more: Any) -> Any:
        looked.append(split)
        return whole(model, data, split, *more)

    monkeypatch.setattr(training, "evaluate", evaluate)
    run = command("train", *tiny, *SETTINGS, "strategy=auto", "strategy.candidates=[lp_ft,full]").run
    assert looked == ["val"] * 4 + ["test"]
    found = {row["strategy"]: float(row["score"]) for row in rows(run)}
    assert all(0 <= score <= 1 for score in found.values())


def test_the_plan_says_that_trials_decide(command: Command, tiny: list[str]) -> None:
    out = command("plan", *tiny, "strategy=auto").out
    assert "strategy=auto: trials decide among gradual_unfreeze, lp_ft, full, linear_probe" in out
