"""Several objectives: their values, the Pareto front, and a search for it."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from test_study import SETTINGS, claim, jobs, objective, write_run
from test_suggest import LR, read
from test_suggest import claim as claim_suggestion

from visiontune import load_sweep
from visiontune.errors import UserError
from visiontune.runs import RunDirectory
from visiontune.runs.files import write_json
from visiontune.sweeps.comparison.table import table
from visiontune.sweeps.study.jobs import build_search, build_suggestions
from visiontune.sweeps.study.objectives import find_objectives, pareto_front, read_values
from visiontune.sweeps.study.paths import run_path
from visiontune.sweeps.study.sweep import Sweep
from visiontune.sweeps.workers.progress import Progress

MODES = {"val/x/score": "max", "parameters": "min"}


def finish(sweep: Sweep, number: int, score: float, parameters: int | None) -> None:
    """Take a job, and write what its run leaves."""
    assert claim(sweep) == number
    facts = {} if parameters is None else {"parameters": parameters}
    write_run(sweep, number, "finished", objective=objective(0.0) | {"name": "val/x/other"}, **facts)
    write_json(run_path(sweep.path, number) / "metrics.json", {"val/x/score": score, "val/x/other": 0.0})
    sweep.conclude(number, exit_code=0)
    sweep.locks.release(number)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.9, 10), (0.8, 5), (0.7, 7), (0.95, 20), (0.6, 5)], [0, 1, 3]),
        ([(0.9, 10), (0.9, 10), (0.9, 11)], [0, 1]),
        ([(math.nan, 1), (0.5, 9), (0.5, math.inf)], [1]),
        ([], []),
    ],
)
def test_the_pareto_front(points: list[tuple[float, float]], expected: list[int]) -> None:
    assert pareto_front(points, ["max", "min"]) == expected


def test_directions_and_names_that_no_run_has() -> None:
    metrics = {"val/x/score": "max", "val/x/loss": "min"}
    assert find_objectives(["parameters", "val/x/score"], metrics) == {"parameters": "min", "val/x/score": "max"}
    with pytest.raises(UserError, match=r"runs have no val/x/scores; write some of val/x/score, val/x/loss, training_"):
        find_objectives(["val/x/scores"], metrics)
    with pytest.raises(UserError, match="val/x/score is there twice"):
        find_objectives(["val/x/score", "val/x/score"], metrics)


def test_the_time_of_a_resumed_run_counts_all_its_processes(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    with run.history.open("w", newline="") as file:
        csv.writer(file).writerows([("epoch", "seconds"), (0, 1.5), (1, 62.5)])
    values = read_values(run, ["training_seconds", "parameters"])
    assert values["training_seconds"] == 62.5 and math.isnan(values["parameters"])


def test_the_table_marks_the_front_and_a_missing_value_is_a_failure(tmp_path: Path) -> None:
    sweep = Sweep.create(tmp_path, replace(SETTINGS, objectives=MODES), "maximize", "minimize")
    sweep.add(jobs(0, 1, 2, 3))
    for number, (score, parameters) in enumerate([(0.9, 20), (0.8, 30), (0.7, 10), (0.99, None)]):
        finish(sweep, number, score, parameters)
    assert [trial.values for trial in sweep.trials()[:3]] == [[0.9, 20], [0.8, 30], [0.7, 10]]
    assert sweep.trials()[3].user_attrs["error"] == "parameters is nan: expected a finite number"
    rows = table(sweep.entries())
    assert [(row["run"], row["objective"], row["value"], row["pareto"], row["parameters"]) for row in rows[:3]] == [
        ("000", "val/x/score", 0.9, "yes", 20),
        ("002", "val/x/score", 0.7, "yes", 10),
        ("001", "val/x/score", 0.8, "", 30),
    ]
    assert rows[3]["status"] == "failed"
    frame = load_sweep(tmp_path).set_index("run")
    assert frame["pareto"].to_dict() == {"000": True, "001": False, "002": True, "003": False}
    assert "4 of 4 done, 1 failed, 2 on the Pareto front" in Progress(sweep, 1)._summary(sweep.entries())


def test_one_objective_replaces_the_monitor(tmp_path: Path) -> None:
    sweep = Sweep.create(tmp_path, replace(SETTINGS, objectives={"parameters": "min"}), "minimize")
    sweep.add(jobs(0, 1))
    finish(sweep, 0, 0.9, 20)
    finish(sweep, 1, 0.5, 10)
    rows = table(sweep.entries())
    assert [(row["run"], row["objective"], row["value"]) for row in rows] == [
        ("001", "parameters", 10),
        ("000", "parameters", 20),
    ]
    assert "pareto" not in rows[0]


def test_tpe_draws_along_the_front(tmp_path: Path) -> None:
    """Both objectives are best for learning rates between 1e-3 and 1e-2."""
    space = read(LR)
    sweep = Sweep.create(tmp_path, replace(SETTINGS, objectives=MODES), "maximize", "minimize")
    search = build_search(space, read("sweep=tpe", LR).cfg.sweep)
    search.store(sweep.study)
    sweep.add(build_suggestions(space, search, 40))
    outside = []
    for number in range(40):
        claim_suggestion(sweep)
        exponent = math.log10(sweep.trials()[number].params["optimizer.lr"])
        outside.append(max(0, -3 - exponent, exponent + 2))
        sweep.study.tell(number, [-abs(exponent + 3), abs(exponent + 2)])
    assert fmean(outside[20:]) < 0.5 * fmean(outside[1:10])
