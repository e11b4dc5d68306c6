"""Sweeps whose jobs fail, whose jobs are killed, and that are killed themselves."""

import csv
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from killing import CONTEXT, run_forked, work
from running import TINY, Command

from visiontune.runs import RunDirectory

TIMES = ("seconds", "peak_memory_mb")


def read_rows(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_results(sweep: Path) -> list[dict[str, str]]:
    """The table of a sweep without times and memory, in the order of the runs."""
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in read_rows(sweep)]
    return sorted(rows, key=lambda row: row["run"])


def check_weights(*runs: Path) -> None:
    """Check that the best checkpoints of two runs have equal weights."""
    first, second = (
        torch.load(RunDirectory.open(run).checkpoint("best"), weights_only=True)["state_dict"] for run in runs
    )
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.slow
def test_failed_jobs_are_recorded_and_run_again_alone(command: Command, tmp_path: Path) -> None:
    sweep, mended = tmp_path / "sweep", tmp_path / "mended"
    callback = f"+callbacks.broken={{_target_: broken_jobs.Break, mended: {mended}}}"
    arguments = ["train", "-m", "seed=0,1,2,3,4,5,6,7", *TINY, callback, f"sweep_dir={sweep}"]
    outcome = command(*arguments)
    assert outcome.code == 1 and "error: 3 jobs have failed:" in outcome.err
    rows = {row["run"]: row for row in read_rows(sweep)}
    assert sorted(rows) == [f"00{number}" for number in range(8)]
    assert {run: row["error"] for run, row in rows.items() if row["status"] == "failed"} == {
        "001": "RuntimeError: the loss is odd",
        "002": "killed by SIGKILL: the system may have run out of memory",
        "003": "MemoryError",
    }
    assert [row["status"] for row in rows.values()].count("finished") == 5
    table = command("compare", sweep)
    assert table.code == 0 and all(run in table.out for run in rows)

    mended.touch()
    outcome = command(*arguments)
    assert outcome.code == 0 and "8 jobs, 5 done or queued before" in outcome.out
    rows = {row["run"]: row for row in read_rows(sweep)}
    assert sorted(rows) == ["000", "004", "005", "006", "007", "008", "009", "010"]
    assert {row["status"] for row in rows.values()} == {"finished"}
    assert [rows[run]["seed"] for run in ("008", "009", "010")] == ["1", "2", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["none", "halving"])
def test_a_sweep_that_is_killed_again_and_again_ends_like_an_uninterrupted_one(pruner: str, tmp_path: Path) -> None:
    """SIGKILL or SIGTERM of the command at random moments; its jobs end with it."""
    rng, output = random.Random(0), tmp_path / "output.txt"
    common = [*TINY, "trainer.max_epochs=3", "strategy=full"]
    base = ["train", "-m", "seed=0,1", "optimizer.lr=0.1,0.01", *common, f"sweep.pruner={pruner}", "sweep.workers=2"]
    assert run_forked([*base, f"sweep_dir={tmp_path / 'whole'}"], output) == 0, output.read_text()
    arguments = [*base, f"sweep_dir={tmp_path / 'killed'}"]
    kills = 0
    while True:
        process = CONTEXT.Process(target=work, args=(output, arguments, None))
        process.start()
        process.join(rng.uniform(0.5, 4) if kills < 6 else None)
        if process.exitcode is not None:
            break
        number = (signal.SIGKILL, signal.SIGTERM)[kills % 2]
        os.kill(process.pid or 0, number)
        process.join()
        assert process.exitcode in (-number, 128 + number), output.read_text()
        kills += 1
    assert process.exitcode == 0 and kills >= 2, (kills, output.read_text())
    assert read_results(tmp_path / "killed") == read_results(tmp_path / "whole")
    names = [path.name for path in sorted((tmp_path / "killed").iterdir()) if path.is_dir()]
    assert names == [f"00{number}" for number in range(4)]
    rows = read_rows(tmp_path / "killed")
    if pruner == "halving":
        assert [row["status"] for row in rows].count("pruned") == 2
        (lr,) = {row["optimizer.lr"] for row in rows if row["status"] == "finished"}
        single = ["train", "seed=1", f"optimizer.lr={lr}", *common, "test=false", f"run_dir={tmp_path / 'single'}"]
        assert run_forked(single, output) == 0, output.read_text()
        (winner,) = [row["run"] for row in rows if row["status"] == "finished" and row["seed"] == "1"]
        check_weights(tmp_path / "single", tmp_path / "killed" / winner)
    for name in names:
        check_weights(tmp_path / "killed" / name, tmp_path / "whole" / name)
