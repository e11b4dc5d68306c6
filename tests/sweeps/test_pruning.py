"""Pruned sweeps: which job is taken next, and what is recorded. Written metrics take the place of trainings."""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from optuna.trial import TrialState

from visiontune.errors import UserError
from visiontune.runs import RunDirectory
from visiontune.runs.files import write_json
from visiontune.signals import PAUSED
from visiontune.sweeps.comparison.table import table
from visiontune.sweeps.study.paths import run_path
from visiontune.sweeps.study.pruner import Pruner, build_pruner, check_same_pruner
from visiontune.sweeps.study.pruning import Pruning
from visiontune.sweeps.study.settings import Settings
from visiontune.sweeps.study.sweep import Job, Sweep
from visiontune.sweeps.workers.progress import Progress

METRIC = "val/x/score"
PRUNER = Pruner("halving", 1, 3, 25, 2, 9, METRIC, "max")
VALUES = {"config_dir": None, "working_directory": "/", "workers": 2, "threads": 1, "devices": 1, "accelerator": "cpu"}


def create(folder: Path, pruner: Pruner, count: int, seeds: int = 1) -> Sweep:
    settings = Settings(overrides=[], fail_fast=False, max_retries=0, pruner=asdict(pruner), **VALUES)  # type: ignore[arg-type]
    sweep = Sweep.create(folder, settings, "maximize" if pruner.mode == "max" else "minimize")
    sweep.add(build_jobs(count, seeds))
    return sweep


def build_jobs(count: int, seeds: int = 1) -> list[Job]:
    keys = [[f"lr={lr}", f"seed={seed}"] for lr in range(count) for seed in range(seeds)]
    return [Job(overrides, " ".join(overrides), str(overrides), {}) for overrides in keys]


def claim(sweep: Sweep) -> int | None:
    with sweep.locks.schedule():
        trial = sweep.claim()
    return None if trial is None else trial.number


def write_history(sweep: Sweep, number: int, scores: list[float], status: str = "running") -> RunDirectory:
    """What the process of a job leaves in its run directory, with the scores of the epochs 0, 1, ..."""
    path = run_path(sweep.path, number)
    if not path.is_dir():
        RunDirectory.create(path).write_config(OmegaConf.create({"seed": number}))
    run = RunDirectory(path)
    with run.history.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", METRIC])
        writer.writerows([epoch, 10 * epoch, score] for epoch, score in enumerate(scores))
    content: dict[str, object] = {"status": status, "started": 1.0, "updated": 3.0}
    if status == "finished":
        best = max(scores)
        content["objective"] = {"name": METRIC, "mode": "max", "value": best, "epoch": scores.index(best)}
    write_json(run.status, content)
    return run


def train(sweep: Sweep, curves: dict[int, list[float]], limit: int | None = None) -> list[tuple[int, int]]:
    """Take jobs until none can start, and train each up to its stop; return number and epochs of each training."""
    trainings: list[tuple[int, int]] = []
    while limit is None or len(trainings) < limit:
        with sweep.locks.schedule():
            trial = sweep.claim()
            if trial is None:
                break
            number, stop = trial.number, trial.user_attrs["pause_after"] or 9
            write_history(sweep, number, curves[number][: stop + 1], "finished" if stop == 9 else "interrupted")
            sweep.conclude(number, exit_code=0 if stop == 9 else PAUSED)
            sweep.locks.release(number)
            trainings.append((number, stop))
    return trainings


def curve(quality: float) -> list[float]:
    return [quality * epoch / 10 for epoch in range(10)]


def test_halving_trains_the_best_third_of_each_rung(tmp_path: Path) -> None:
    sweep = create(tmp_path, PRUNER, 9)
    curves = {number: curve(number / 10) for number in range(9)}
    trainings = train(sweep, curves)
    assert trainings == [*((number, 1) for number in range(9)), (6, 3), (7, 3), (8, 3), (8, 9)]
    assert [trial.state.name for trial in sweep.trials()] == ["PRUNED"] * 8 + ["COMPLETE"]
    assert sweep.is_done() and claim(sweep) is None
    rows = table(sweep.entries())
    assert [(row["run"], row["status"], row["epochs"], row["best epoch"]) for row in rows[:3]] == [
        ("008", "finished", 9, 9),
        ("007", "pruned", 3, 3),
        ("006", "pruned", 3, 3),
    ]
    assert rows[1]["value"] == pytest.approx(0.21) and rows[1]["seconds"] == 2.0
    assert sweep.trials()[7].value == pytest.approx(0.21)
    assert sweep.add(build_jobs(9)) == 0, "pruned jobs are done"


def test_jobs_that_wait_are_not_taken_while_others_run_their_rung(tmp_path: Path) -> None:
    sweep = create(tmp_path, PRUNER, 3)
    curves = {number: curve(0.5 + number) for number in range(4)}
    assert claim(sweep) == 0
    assert train(sweep, curves) == [(1, 1), (2, 1)]
    assert not sweep.is_done(everywhere=False), "a second worker waits for job 0"
    assert claim(sweep) is None
    write_history(sweep, 0, curve(9)[:2], "running")
    sweep.locks.release(0)  # it is killed after its epoch, perhaps before it has written its checkpoint
    assert train(sweep, {0: curve(9)}) == [(0, 1), (0, 3), (0, 9)]
    assert sweep.is_done() and [trial.state.name for trial in sweep.trials()] == ["COMPLETE", "PRUNED", "PRUNED"]


def test_seeds_of_a_configuration_share_its_fate(tmp_path: Path) -> None:
    sweep = create(tmp_path, PRUNER, 3, seeds=2)
    qualities = [(0.9, 0.2), (0.5, 0.5), (0.1, 0.6)]
    curves = {2 * i + seed: curve(quality) for i, pair in enumerate(qualities) for seed, quality in enumerate(pair)}
    assert train(sweep, curves)[6:] == [(0, 3), (1, 3), (0, 9), (1, 9)]


def test_a_sweep_that_is_killed_while_it_prunes_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = {number: curve(number / 10) for number in range(9)}
    sweep = create(tmp_path, PRUNER, 9)
    train(sweep, curves, limit=8)
    assert claim(sweep) == 8
    write_history(sweep, 8, curves[8][:2], "interrupted")
    sweep.locks.release(8)  # its worker is killed before it can conclude
    prune, count = Pruning.prune, [0]

    def killed(*arguments: Any) -> None:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        prune(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Pruning, "prune", killed)
        with pytest.raises(KeyboardInterrupt):
            claim(sweep)
    assert [trial.state.name for trial in sweep.trials()].count("PRUNED") == 2
    assert train(Sweep(tmp_path), curves) == [(6, 3), (7, 3), (8, 3), (8, 9)]


def test_pruned_jobs_are_shown_and_count_as_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = create(tmp_path, PRUNER, 3)
    progress = Progress(sweep, workers=2)
    train(sweep, {number: curve(0.5 + number) for number in range(3)})
    progress.ended(sweep.trials()[2])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"{METRIC} 2.2500, 2 s; 3 of 3 done, 2 pruned, best 2.2500 (002)")
    assert lines[1:] == [
        "000  lr=0 seed=0: pruned after epoch 1, 0.0500",
        "001  lr=1 seed=0: pruned after epoch 1, 0.1500",
    ]


def test_lower_scores_are_better_for_a_loss(tmp_path: Path) -> None:
    sweep = create(tmp_path, Pruner("halving", 3, 3, 25, 2, 9, METRIC, "min"), 3)
    assert train(sweep, {number: curve(number / 10 - 0.5) for number in range(3)})[3:] == [(0, 9)]


def test_the_median_pruner_stops_a_job_below_the_median_and_reports_each_score_once(tmp_path: Path) -> None:
    sweep = create(tmp_path, Pruner("median", 2, 3, 25, 2, 9, METRIC, "max"), 3)
    for number in (0, 1):
        assert claim(sweep) == number
        write_history(sweep, number, curve(0.5), "finished")
        assert sweep.conclude(number, exit_code=0).state == TrialState.COMPLETE
        sweep.locks.release(number)
    assert claim(sweep) == 2
    reports = []
    for epochs in (1, 2, 2):
        write_history(sweep, 2, [0.04, 0.01, 0.02][: epochs + 1])
        reports.append(sweep.report([2]))
    assert reports == [[], [2], []], "after epoch 1 it is too early, and epoch 2 is told once"
    assert sweep.trials()[2].intermediate_values == {1: 0.04, 2: 0.04}, "the best score so far"
    write_history(sweep, 2, [0.04, 0.01, 0.02], "interrupted")
    sweep.locks.release(2)  # its worker is killed before it is concluded
    assert claim(sweep) is None and sweep.is_done()
    (entry,) = [entry for entry in sweep.entries() if entry.path.name == "002"]
    assert entry.status["status"] == "pruned" and entry.status["objective"]["value"] == 0.04
    assert entry.epochs == 2 and sweep.trials()[2].state == TrialState.PRUNED


@pytest.mark.parametrize("name", ["hyperband", "median", "percentile"])
def test_a_job_that_has_finished_or_failed_is_not_pruned_afterwards(name: str, tmp_path: Path) -> None:
    sweep = create(tmp_path, Pruner(name, 1, 3, 25, 1, 9, METRIC, "max"), 4)
    states = []
    for quality, status in ((0.9, "finished"), (0.1, "finished"), (0.1, "failed")):
        number = claim(sweep)
        assert number is not None
        write_history(sweep, number, curve(quality), status)
        states.append(sweep.conclude(number, exit_code=0 if status == "finished" else 1).state)
        sweep.locks.release(number)
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL]


CONFIG = {"checkpoints": {"pause_after": None}, "trainer": {"max_epochs": 9}}
SWEEP = {"pruner": "halving", "sampler": "grid", "workers": 2, "objectives": []}
PRUNING = {"min_epochs": "auto", "factor": 3, "percentile": 25, "startup_jobs": 5}


@pytest.mark.parametrize(
    ("sweep", "configs", "metrics", "message"),
    [
        ({}, [{"checkpoints": {"pause_after": 3}}], [METRIC], "checkpoints.pause_after is a key of single runs"),
        ({}, [{}, {"trainer": {"max_epochs": 5}}], [METRIC], "schedules of different lengths"),
        ({}, [{}], [METRIC, "val/y/score"], "these differ: val/x/score, val/y/score"),
        ({"objectives": [METRIC, "parameters"]}, [{}], [METRIC], "and not by sweep.objectives: write one of both"),
        ({"sampler": "tpe"}, [{}], [METRIC], "sweep.sampler=tpe: halving trains all suggestions"),
        (
            {"pruner": "median", "workers": 0},
            [{}],
            [METRIC],
            "sweep.workers=0: sweep.pruner=median stops jobs that run",
        ),
        ({"pruning": {"min_epochs": 9}}, [{}], [METRIC], "sweep.pruning.min_epochs=9: the jobs train for 9 epochs"),
    ],
)
def test_a_pruner_that_does_not_fit_is_refused(
    sweep: dict[str, object], configs: list[dict[str, object]], metrics: list[str], message: str
) -> None:
    options = OmegaConf.merge({"pruning": PRUNING} | SWEEP, sweep)
    composed = [OmegaConf.merge(CONFIG, config) for config in configs]
    with pytest.raises(UserError, match=message):
        build_pruner(options, composed, {(metric, "max") for metric in metrics}, 9)  # type: ignore[arg-type]


@pytest.mark.parametrize(("epochs", "rungs"), [(2, [1]), (5, [1, 3]), (9, [2, 6]), (30, [6, 18]), (100, [20, 60])])
def test_no_job_is_pruned_in_the_first_fifth_of_its_epochs(epochs: int, rungs: list[int]) -> None:
    options = OmegaConf.create({"pruning": PRUNING} | SWEEP)
    composed = [OmegaConf.merge(CONFIG, {"trainer": {"max_epochs": epochs}})]
    pruner = build_pruner(options, composed, {(METRIC, "max")}, epochs)  # type: ignore[list-item]
    assert pruner is not None and pruner.rungs() == rungs


def test_another_pruner_is_refused() -> None:
    check_same_pruner(asdict(PRUNER), asdict(PRUNER))
    with pytest.raises(
        UserError, match=r"^sweep.pruner=none: the sweep in this directory has sweep.pruner=halving min_"
    ):
        check_same_pruner(asdict(PRUNER), None)
