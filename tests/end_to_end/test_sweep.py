"""A sweep with the command line, and its table."""

import csv
import json
import multiprocessing
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from running import Command

from visiontune.runs import RunDirectory
from visiontune.sweeps.study.locks import SweepLocks

FIXED = ["data.batch_size=8"]
VARIED = ["strategy=linear_probe,full", "optimizer.lr=0.1,0.001", *FIXED]

Shell = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def sweep(command: Command, tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sweeps") / "first"
    outcome = command("train", "-m", *VARIED, *tiny, f"sweep_dir={place}")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1] == str(place / "sweep.csv")
    return place


def test_four_runs_and_no_test_split(sweep: Path) -> None:
    runs = [RunDirectory.open(sweep / f"{number:03d}") for number in range(4)]
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["000", "001", "002", "003"]
    configs = [run.read_config() for run in runs]
    settings = [(cfg.strategy._target_.rpartition(".")[2], cfg.optimizer.lr) for cfg in configs]
    assert settings == [("LinearProbe", 0.1), ("LinearProbe", 0.001), ("Full", 0.1), ("Full", 0.001)]
    for run in runs:
        assert run.read_status()["status"] == "finished" and run.read_config().test is False
        assert {name.split("/")[0] for name in json.loads(run.metrics.read_text())} == {"val"}
        with run.predictions.open(newline="") as file:
            assert {row["split"] for row in csv.DictReader(file)} == {"val"}
        assert run.checkpoint("best").is_file() and run.checkpoint("last").is_file()
        assert json.loads(run.environment.read_text())["overrides"][0].startswith("strategy=")


def test_the_table(sweep: Path, command: Command) -> None:
    outcome = command("compare", sweep)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1] == str(sweep / "sweep.csv")
    with (sweep / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "run",
        "strategy",
        "optimizer.lr",
        "objective",
        "value",
        "best epoch",
        "epochs",
        "seconds",
        "trained_parameters",
        "peak_memory_mb",
        "status",
    ]
    trained = {row["strategy"]: int(row["trained_parameters"]) for row in rows}
    assert trained["linear_probe"] == 10 * 8 + 10 < trained["full"]
    assert all(float(row["peak_memory_mb"]) > 100 for row in rows)
    assert {(row["strategy"], row["optimizer.lr"]) for row in rows} == {
        (strategy, lr) for strategy in ("linear_probe", "full") for lr in ("0.1", "0.001")
    }
    values = [float(row["value"]) for row in rows]
    assert values == sorted(values, reverse=True)
    for row in rows:
        status = RunDirectory.open(sweep / row["run"]).read_status()
        assert float(row["value"]) == status["objective"]["value"] and row["status"] == "finished"
        assert row["epochs"] == "1" and float(row["seconds"]) > 0
        assert row["objective"] == "val/classification/accuracy"
    printed = [line.split()[0] for line in outcome.out.splitlines()[1:5]]
    assert printed == [row["run"] for row in rows]


def test_the_table_of_some_runs_of_a_sweep(sweep: Path, command: Command, tmp_path: Path) -> None:
    outcome = command("compare", sweep / "000", sweep / "002", "--csv", tmp_path / "two.csv")
    assert outcome.code == 0, outcome.err
    with (tmp_path / "two.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["strategy"] for row in rows} == {"linear_probe", "full"} and "optimizer.lr" not in rows[0]


def test_a_second_command_is_refused_while_the_first_runs(sweep: Path, command: Command, tiny: list[str]) -> None:
    """Two commands in one directory; `visiontune work` is the way to help."""
    first = multiprocessing.get_context("fork")
    held, ended = first.Event(), first.Event()

    def run() -> None:
        with SweepLocks(sweep / "study.locks").command():
            held.set()
            ended.wait()

    process = first.Process(target=run, daemon=True)
    process.start()
    assert held.wait(30)
    message = command("train", "-m", *VARIED, *tiny, f"sweep_dir={sweep}").message
    assert message.startswith(f"another command runs the sweep in {sweep}: help it with visiontune work {sweep}, or")
    ended.set()
    process.join()


def test_the_same_command_repeats_nothing_and_more_values_add_jobs(
    sweep: Path, command: Command, tiny: list[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*.ckpt")}
    outcome = command("train", "-m", *VARIED, *tiny, f"sweep_dir={sweep}")
    assert outcome.code == 0 and "4 jobs, 4 done or queued before" in outcome.out
    outcome = command("train", "-m", "strategy=full,norm_only", "optimizer.lr=0.1", *FIXED, *tiny, f"sweep_dir={sweep}")
    assert outcome.code == 0 and "2 jobs, 1 done or queued before" in outcome.out
    assert RunDirectory.open(sweep / "004").read_overrides()[0] == "strategy=norm_only"
    assert not (sweep / "005").exists()
    assert {path: path.stat().st_mtime_ns for path in before} == before
