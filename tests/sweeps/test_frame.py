"""`load_sweep`: the runs of a sweep as a DataFrame."""

import math
from pathlib import Path

import pytest
from test_compare import write_run

import visiontune
from visiontune.errors import UserError


def test_a_row_for_each_run_the_best_first(tmp_path: Path) -> None:
    write_run(tmp_path, "000", ["optimizer.lr=1e-3", "strategy=full", "seed=0", f"sweep_dir={tmp_path}"], 0.5)
    write_run(tmp_path, "001", ["optimizer.lr=0.1", "strategy=full", "seed=1"], 0.75, test=0.7)
    write_run(tmp_path, "002", ["strategy=full", "seed=2"], None)
    frame = visiontune.load_sweep(str(tmp_path))
    assert list(frame.columns) == [
        "run", "path", "optimizer.lr", "strategy", "seed", "objective", "mode", "value", "best_epoch",
        "trained_epochs", "seconds", "status", "error", "val/x/score", "test/x/score", "test/x/other",
    ]  # fmt: skip
    assert frame["run"].tolist() == ["001", "000", "002"]
    assert frame["path"].tolist() == [str(tmp_path / name) for name in ("001", "000", "002")]
    assert frame["optimizer.lr"].tolist() == [0.1, 1e-3, 0.1], "002 has that of its config"
    assert frame["seed"].dtype.kind == "i" and frame["strategy"].tolist() == ["full"] * 3
    assert frame["value"].tolist()[:2] == [0.75, 0.5] and math.isnan(frame["value"][2])
    assert frame["status"].tolist() == ["finished", "finished", "failed"]
    assert frame["seconds"].tolist() == [2.5] * 3 and frame["trained_epochs"].tolist() == [3, 3, 0]
    assert frame["test/x/score"].tolist()[0] == 0.7 and frame["test/x/score"].isna().tolist() == [False, True, True]
    assert frame.groupby("strategy")["value"].mean().tolist() == [0.625]


def test_the_smallest_first_where_less_is_better(tmp_path: Path) -> None:
    for name, value in (("a", 0.5), ("b", 0.25)):
        write_run(tmp_path, name, [], value, mode="min")
    assert visiontune.load_sweep(tmp_path)["run"].tolist() == ["b", "a"]


def test_a_folder_without_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a run directory or a sweep directory"):
        visiontune.load_sweep(tmp_path)
