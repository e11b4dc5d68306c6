"""The winner of a sweep, and its evaluation on the test split."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from running import FEW, TINY, Command
from scipy import stats
from test_compare import write_run, write_splits

from visiontune.analysis import results
from visiontune.config.derive import derive
from visiontune.data.dataset import VisionDataset
from visiontune.data.recorded import read_rows
from visiontune.errors import UserError
from visiontune.runs import RunDirectory
from visiontune.runs.files import write_json
from visiontune.runs.predictions import read_predictions
from visiontune.sweeps import evaluate_winner
from visiontune.sweeps.comparison.records import WinnerTest, read_tests
from visiontune.sweeps.comparison.table import find_entries, table
from visiontune.sweeps.comparison.winner import Winner, find_winner

METRIC = "test/classification/accuracy"


def winner(folder: Path) -> Winner:
    entries = find_entries([folder])
    return find_winner(table(entries), {entry.path.name: entry for entry in entries})


def test_the_winner_is_the_group_with_the_best_mean(tmp_path: Path) -> None:
    for lr, scores in {"0.1": [0.9, 0.5], "0.2": [0.8, 0.7], "0.3": [1.0, None]}.items():
        for seed, score in enumerate(scores):
            write_run(tmp_path, f"{lr}-{seed}", [f"optimizer.lr={lr}", f"seed={seed}"], score)
            write_splits(tmp_path / f"{lr}-{seed}", "abc")
    assert winner(tmp_path) == Winner("optimizer.lr=0.2", ["0.2-0", "0.2-1"], "test/x/score", 0.0)


def test_the_winner_without_repeats_is_the_best_run(tmp_path: Path) -> None:
    for name, score in (("a", 0.5), ("b", 0.25), ("c", 0.75), ("d", None)):
        write_run(tmp_path, name, [f"optimizer.lr=0.{ord(name)}"], score, mode="min")
    assert winner(tmp_path) == Winner("optimizer.lr=0.98", ["b"], "test/x/score", 0.0)


def test_a_cost_has_no_winner(tmp_path: Path) -> None:
    write_run(tmp_path, "a", [], 0.5)
    status = RunDirectory(tmp_path / "a").read_status()
    write_json(tmp_path / "a/status.json", status | {"objective": status["objective"] | {"name": "seconds"}})
    with pytest.raises(UserError, match="the objective seconds is no metric of the validation split"):
        winner(tmp_path)


def test_several_objectives_have_no_winner(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path, name, [], 0.5)
    modes = {"val/x/score": "max", "parameters": "min"}
    entries = {entry.path.name: replace(entry, modes=modes) for entry in find_entries([tmp_path])}
    with pytest.raises(UserError, match="several objectives, so none is the best: parameters, val/x/score"):
        find_winner(table(list(entries.values())), entries)


def test_folds_have_been_tested(tmp_path: Path) -> None:
    for fold in (0, 1):
        write_run(tmp_path, f"fold{fold}", [f"data.fold={fold}"], 0.5, test=0.5)
    with pytest.raises(UserError, match="the held-out folds are the test split"):
        winner(tmp_path)


Reads = Counter[tuple[int, str]]  # how often an image was read for a batch, by the seed of the splits and its path


@contextmanager
def counted_reads() -> Iterator[Reads]:
    counts: Reads = Counter()
    original = VisionDataset.__getitem__

    def read(dataset: VisionDataset, key: int | tuple[int, int]) -> dict[str, Any]:
        item = original(dataset, key)
        counts[dataset.seed, item["path"]] += 1
        return item

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VisionDataset, "__getitem__", read)
        yield counts


def images_to_test(sweep: Path, number: int) -> Reads:
    return Counter(
        (number % 2, row["path"]) for row in read_rows(sweep / f"{number:03d}/splits.csv") if row["split"] == "test"
    )


@pytest.fixture(scope="module")
def trained(command: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reads]:
    """Two learning rates with two seeds each, of which the first wins; and the images that the sweep has read."""
    place = tmp_path_factory.mktemp("winner") / "sweep"
    with counted_reads() as reads, pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "write_report", lambda *_: {})  # half the time of a small run
        outcome = command(
            "train", "-m", *TINY, FEW, "strategy=linear_probe", "optimizer.lr=0.01,1e-9", "seed=0,1", "probe=false",
            f"sweep_dir={place}", "sweep.workers=0", "sweep.check=false",
        )  # fmt: skip
    assert outcome.code == 0, outcome.err
    return place, reads


@pytest.fixture
def sweep(trained: tuple[Path, Reads], tmp_path: Path) -> Path:
    return copytree(trained[0], tmp_path / "sweep")


def record(sweep: Path) -> list[dict[str, Any]]:
    return json.loads((sweep / "sweep_test.json").read_text())["tests"]


def test_the_winner_is_evaluated_once(sweep: Path, trained: tuple[Path, Reads], command: Command) -> None:
    expected = images_to_test(sweep, 0) + images_to_test(sweep, 1)
    assert len(expected) == 108 and expected.keys().isdisjoint(trained[1]) and trained[1].total() > 500
    with counted_reads() as reads:
        first = command("compare", sweep, "--test")
    assert first.code == 0, first.err
    assert reads == expected
    (test,) = record(sweep)
    scores = {}
    for name in ("000", "001"):
        run = RunDirectory.open(sweep / name)
        assert Counter(row["split"] for row in read_predictions(run.predictions)) == {"val": 54, "test": 54}
        assert "val/classification/accuracy" in run.read_metrics()
        scores[name] = run.read_metrics()[METRIC]
        assert METRIC in (run.report / "index.html").read_text()
    assert (test["settings"], test["runs"], test["metric"]) == ("optimizer.lr=0.01", ["000", "001"], METRIC)
    assert test["values"] == scores and test["overlap"] == pytest.approx(54 / 64)
    assert METRIC not in RunDirectory.open(sweep / "002").read_metrics()
    assert f"{METRIC} of optimizer.lr=0.01: mean of 2 runs" in (sweep / "sweep.html").read_text()
    mean = sum(scores.values()) / 2
    assert f"{METRIC} of optimizer.lr=0.01: mean of 2 runs {mean:.4f}, 95% interval" in first.out
    with counted_reads() as reads:
        second = command("compare", sweep, "--test")
    assert second.code == 0 and not reads and record(sweep) == [test]
    assert first.out.splitlines()[-4:] == second.out.splitlines()[-4:]


def test_another_winner_is_refused(sweep: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_winner, "write_report", lambda *_: {})
    for name in ("000", "001"):
        run = RunDirectory.open(sweep / name)
        write_json(run.metrics, run.read_metrics() | {METRIC: 0.5})  # as with test=true
    with counted_reads() as reads:
        assert command("compare", sweep, "--test").code == 0
    assert not reads and record(sweep)[0]["values"] == {"000": 0.5, "001": 0.5}
    for name in ("002", "003"):
        run = RunDirectory.open(sweep / name)
        status = run.read_status()
        write_json(run.status, status | {"objective": status["objective"] | {"value": 1.0}})
    message = command("compare", sweep, "--test").message
    assert "the winner is now optimizer.lr=1e-09, and the test split has been used for optimizer.lr=0.01" in message
    with counted_reads() as reads:
        outcome = command("compare", sweep, "--test-again")
    assert outcome.code == 0 and reads == images_to_test(sweep, 2) + images_to_test(sweep, 3)
    assert [test["settings"] for test in record(sweep)] == ["optimizer.lr=0.01", "optimizer.lr=1e-09"]
    assert len(re.findall(f"{METRIC} of optimizer", outcome.out)) == 2
    assert command("compare", sweep, "--test").code == 0  # both have been recorded


def test_a_test_that_was_killed_counts_and_resumes(
    sweep: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_winner, "write_report", lambda *_: {})
    original = evaluate_winner.add_results

    def add_results(run: RunDirectory, result: Any) -> None:
        if run.path.name == "001":
            raise KeyboardInterrupt
        original(run, result)

    monkeypatch.setattr(evaluate_winner, "add_results", add_results)
    assert command("compare", sweep, "--test").code == 130
    (test,) = record(sweep)
    assert test["runs"] == ["000", "001"] and list(test["values"]) == ["000"]
    monkeypatch.setattr(evaluate_winner, "add_results", original)
    with counted_reads() as reads:
        assert command("compare", sweep, "--test").code == 0
    assert reads == images_to_test(sweep, 1) and list(record(sweep)[0]["values"]) == ["000", "001"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("running", "--test: 001 still run"),
        ("no test split", "has no test split"),
        ("foreign", "write trust=true"),
    ],
)
def test_nothing_is_evaluated_if(sweep: Path, command: Command, change: str, problem: str) -> None:
    run = RunDirectory.open(sweep / "001")
    with ExitStack() as stack:
        if change == "running":
            write_json(run.status, run.read_status() | {"status": "running"})
            stack.enter_context(run.lock())
        elif change == "no test split":
            run.splits.write_text(run.splits.read_text().replace(",test,", ",val,"))
        else:
            run.write_config(derive(run.read_config(), {"optimizer._target_": "os.system"}))
        assert problem in command("compare", sweep, "--test").message
    assert not (sweep / "sweep_test.json").exists()


def test_a_winner_of_one_run_has_no_interval(tmp_path: Path) -> None:
    test = WinnerTest(time="t", settings="", runs=["3"], metric="test/x", overlap=0, values={"3": 0.25})
    assert test.describe() == "test/x of run 3: 0.2500 (tested t, sweep_test.json)"


def test_the_interval_of_a_winner(tmp_path: Path) -> None:
    scores = {"0": 0.5, "1": 0.6, "2": 0.9}
    low, high = stats.t.interval(0.95, 2, 2 / 3, stats.sem(list(scores.values())))
    test = WinnerTest(time="t", settings="a=1", runs=list(scores), metric="test/x", overlap=0, values=scores)
    assert f"test/x of a=1: mean of 3 runs 0.6667, 95% interval {low:.4f} to {high:.4f} " in test.describe()


def test_a_wrong_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweep_test.json").write_text('{"tests": [{"time": 3}]}')
    with pytest.raises(UserError, match=r"sweep_test.json: tests.0.time: Input should be a valid string"):
        read_tests(tmp_path)
