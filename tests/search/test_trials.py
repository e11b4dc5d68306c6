"""`search=strategy` trains trials, chooses by the validation split, and lists the trials."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from running import FEW, Command

from visiontune.runs import RunDirectory
from visiontune.search import lr_range, trials
from visiontune.training import evaluation

pytestmark = pytest.mark.usefixtures("no_report")
# A trial has half of the images: 17 steps in each of three epochs.
SETTINGS = [FEW, "trainer.max_epochs=3", "data.limit_train=68", "augment=none", "probe=true", "data.batch_size=2"]


def rows(run: RunDirectory) -> list[dict[str, str]]:
    with (run.report / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Strategy -> the score that replaces that of its trials; a test fills it."""
    scores_by_strategy: dict[str, float] = {}
    original = trials._run_trial

    def run_trial(cfg: DictConfig, config: DictConfig, name: str, train: Any) -> Any:
        candidate = original(cfg, config, name, train)
        return replace(candidate, trial=replace(candidate.trial, score=scores_by_strategy[name]))

    monkeypatch.setattr(trials, "_run_trial", run_trial)
    return scores_by_strategy


@pytest.mark.slow
def test_the_best_on_val_is_trained(command: Command, tiny: list[str], scores: dict[str, float]) -> None:
    scores |= {"linear_probe": 0.5, "norm_only": 0.7}
    arguments = [
        *tiny,
        *SETTINGS,
        "trainer.max_epochs=4",
        "search=strategy",
        "technique=[ema,l2_sp]",
        "search.candidates=[linear_probe,norm_only]",
    ]
    outcome = command("train", *arguments)
    run = outcome.run
    cfg = run.read_config()
    assert cfg.strategy._target_ == "visiontune.strategies.NormOnly" and "l2_sp" in cfg.technique
    assert cfg.trainer.max_epochs == 4 and cfg.data.limit_train == 68  # the run itself has all epochs and images
    trials = rows(run)
    assert [row["strategy"] for row in trials] == ["linear_probe", "norm_only", "norm_only", "norm_only"]
    assert [(row["epochs"], row["images"]) for row in trials] == [("3", "34")] * 4
    default, _, fastest, between = (float(row["lr"]) for row in trials)
    assert fastest != default == pytest.approx(5e-4)  # a second trial with the range test's learning rate
    assert between**2 == pytest.approx(fastest * default)
    assert cfg.optimizer.lr == pytest.approx(5e-4)  # the others are no better here
    assert "trials" in outcome.out and (run.report / "lr_range.png").is_file()
    assert "chosen: strategy=norm_only optimizer.lr=5.00e-04" in outcome.out
    assert not [line for line in outcome.out.splitlines()[:5] if "/run" in line]  # no output of the trials themselves


@pytest.mark.slow
def test_a_trial_has_fifty_steps(command: Command, tiny: list[str], scores: dict[str, float]) -> None:
    scores |= {"linear_probe": 0.5}
    arguments = [*tiny, *SETTINGS, "search=strategy", "search.candidates=[linear_probe]", "optimizer.lr=1e-3"]
    few = ["search.images=0.1", "data.limit_train=100", "data.batch_size=4"]
    (row,) = rows(command("train", *arguments, *few).run)
    assert (row["epochs"], row["images"]) == ("3", "68")  # 17 steps of 4 in each of three epochs
    (row,) = rows(command("train", *arguments, *few, "data.batch_size=8").run)
    assert (row["epochs"], row["images"]) == ("3", "100")  # all of them


@pytest.mark.slow
def test_an_lr_of_the_command_line_stays(command: Command, tiny: list[str], scores: dict[str, float]) -> None:
    scores |= {"linear_probe": 0.5, "full": 0.5}
    arguments = [*tiny, *SETTINGS, "search=strategy", "search.candidates=[full,linear_probe]", "optimizer.lr=1e-3"]
    outcome = command("train", *arguments)
    run = outcome.run
    assert run.read_config().strategy._target_ == "visiontune.strategies.Full"  # the first of equal scores
    assert [float(row["lr"]) for row in rows(run)] == [1e-3, 1e-3]
    assert not list(run.report.glob("lr_range*")) and "range test" not in outcome.out
    assert "chosen: strategy=full optimizer.lr=1.00e-03" in outcome.out


@pytest.mark.slow
def test_both_auto_make_each_trial_once(command: Command, tiny: list[str], scores: dict[str, float]) -> None:
    scores |= {"linear_probe": 0.5, "full": 0.7}
    arguments = [*tiny, *SETTINGS, "search=strategy", "search.candidates=[full,linear_probe]", "optimizer.lr=auto"]
    run = command("train", *arguments).run
    (lr,) = {row["lr"] for row in rows(run)}
    assert len(rows(run)) == 2 and run.read_config().optimizer.lr == pytest.approx(float(lr))


@pytest.mark.slow
def test_the_test_split_is_not_evaluated(command: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated_splits: list[str] = []
    original = evaluation.evaluate

    def evaluate(model: Any, data: Any, split: str, *more: Any) -> Any:
        evaluated_splits.append(split)
        return original(model, data, split, *more)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    candidates = ["search=strategy", "search.candidates=[lp_ft,full]", "data.batch_size=8"]
    run = command("train", *tiny, *SETTINGS, *candidates).run
    assert evaluated_splits == ["val"] * 5 + ["test"]  # two candidates, two more learning rates, the run
    scores = {row["strategy"]: float(row["score"]) for row in rows(run)}
    assert all(0 <= score <= 1 for score in scores.values())


@pytest.mark.slow
def test_trials_continue_if_the_range_test_finds_no_lr(
    command: Command, tiny: list[str], scores: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores |= {"linear_probe": 0.5, "full": 0.4}

    def fail(*_: object) -> float:
        raise lr_range.NoLossFell

    monkeypatch.setattr(lr_range, "choose_lr", fail)
    arguments = [*tiny, *SETTINGS, "search=strategy", "search.candidates=[full,linear_probe]"]
    assert len(rows(command("train", *arguments).run)) == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["search.candidates=[]"], "search.candidates=[]: expected a list of strategies, got an empty list; write"),
        (["search.candidates=full"], "search.candidates=full: expected a list of strategies, got text; write"),
        (
            ["search.candidates=[full,half]"],
            "strategy=half: unknown option; write strategy= one of bias_only,",
        ),
        (["search.candidates=[full,last_k]", "backbone.widths=[4]"], "strategy.k=2: the backbone has the 1 stages"),
        (["search.epochs=0"], "search.epochs=0: expected a fraction above 0 and at most 1, got 0; write search.epochs"),
        (["search.images=2"], "search.images=2: expected a fraction above 0 and at most 1"),
    ],
)
def test_bad_input_is_found_before_anything_trains(
    overrides: list[str], words: str, command: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("range_test", "_run_trial"):
        monkeypatch.setattr(trials, name, lambda *_: pytest.fail("something has trained"))
    assert words in command("train", *tiny, *SETTINGS, "search=strategy", *overrides).message


@pytest.mark.parametrize("auto", ["search=strategy", "optimizer.lr=auto"])
def test_a_used_run_directory_is_refused_before_anything_trains(
    auto: str, command: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "range_test", lambda _: pytest.fail("something has trained"))
    (tmp_path / "notes.txt").touch()
    assert "is not empty" in command("train", *tiny, auto, f"run_dir={tmp_path}").message


@pytest.mark.slow
def test_a_strategy_that_sets_its_epochs_can_be_a_candidate(
    command: Command, tiny: list[str], scores: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visiontune.strategies.bit_hyperrule.STEPS", ((math.inf, 12),))
    scores |= {"linear_probe": 0.5, "bit_hyperrule": 0.7}
    base = [argument for argument in tiny if "max_epochs" not in argument]
    candidates = "search.candidates=[linear_probe,bit_hyperrule]"
    run = command("train", *base, "epochs=3", "search=strategy", candidates, "optimizer.lr=0.01", "probe=true").run
    assert [row["strategy"] for row in rows(run)] == ["linear_probe", "bit_hyperrule"]


def test_the_plan_says_that_trials_decide(command: Command, tiny: list[str]) -> None:
    out = command("plan", *tiny, "search=strategy").out
    assert "search=strategy: trials decide among gradual_unfreeze, lp_ft, full, linear_probe" in out


@pytest.mark.slow
def test_the_jobs_of_a_sweep_stay_in_its_folder(
    command: Command, tiny: list[str], scores: dict[str, float], tmp_path: Path
) -> None:
    scores |= {"norm_only": 0.7}
    overrides = ["search=strategy", "search.candidates=[norm_only]", "optimizer.lr=1e-3", "seed=0,1"]
    outcome = command("train", "-m", *tiny, *SETTINGS, *overrides, "sweep.workers=0", f"paths.logs={tmp_path}")
    assert outcome.code == 0, outcome.err
    (sweep,) = (tmp_path / "sweeps").iterdir()  # its name is the time
    assert {path.name for path in sweep.iterdir() if path.is_dir()} == {"000", "001"}
    assert (sweep / "sweep.csv").is_file()


def test_a_search_in_a_file(command: Command, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /search: strategy\nsearch:\n  candidates: [full, lp_ft]\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    assert "the plan of full" in command("plan", "--config-dir", tmp_path, *tiny, "experiment=mine").out
