"""The table and the page of runs, and means over seeds with intervals."""

import json
import math
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from omegaconf import OmegaConf
from running import Command
from scipy import stats

from visiontune.errors import UserError
from visiontune.runs import RunDirectory
from visiontune.runs.files import write_json
from visiontune.sweeps.comparison import average_repeats, compare, find_entries, table


def write_run(
    folder: Path, name: str, overrides: list[str], value: float | None, mode: str = "max", test: float | None = None
) -> None:
    run = RunDirectory.create(folder / name)
    run.write_config(OmegaConf.create({"optimizer": {"lr": 0.1}, "seed": 1, "strategy": {"a": 1}}))
    write_json(run.environment, {"overrides": overrides})
    status: dict = {"status": "failed" if value is None else "finished", "started": 10.0, "updated": 12.5}
    if value is not None:
        status["objective"] = {"name": "val/x/score", "mode": mode, "value": value, "epoch": 2}
        run.history.write_text("epoch,step\n0,0\n3,30\n")
    write_json(run.status, status)
    if test is not None:
        write_json(run.metrics, {"val/x/score": value, "test/x/score": test, "test/x/other": 0.0})


def test_the_best_first_and_only_what_varies(tmp_path: Path) -> None:
    write_run(tmp_path, "a", ["optimizer.lr=0.2", "strategy=full", f"run_dir={tmp_path}/a", "seed=1"], 0.5)
    write_run(tmp_path, "b", ["strategy=full", f"run_dir={tmp_path}/b"], 0.75, test=0.7)
    write_run(tmp_path, "c", ["optimizer.lr=0.3", "strategy=full"], None)
    rows = table(find_entries([tmp_path]))
    assert [row["run"] for row in rows] == ["b", "a", "c"]
    assert list(rows[0]) == [
        "run", "optimizer.lr", "objective", "value", "test/x/score", "best epoch", "epochs", "seconds", "status",
    ]  # fmt: skip
    assert [row["optimizer.lr"] for row in rows] == ["0.1", "0.2", "0.3"]  # that of b is from its config
    assert [(row["value"], row["epochs"], row["seconds"], row["status"]) for row in rows[:2]] == [
        (0.75, 3, 2.5, "finished"),
        (0.5, 3, 2.5, "finished"),
    ]
    assert rows[0]["test/x/score"] == 0.7 and rows[1]["test/x/score"] == ""
    assert math.isnan(rows[2]["value"]) and rows[2]["status"] == "failed" and rows[2]["epochs"] == 0


def test_the_smallest_first_where_less_is_better(tmp_path: Path) -> None:
    for name, value in (("a", 0.5), ("b", 0.25), ("c", 0.75)):
        write_run(tmp_path, name, [], value, mode="min")
    assert [row["run"] for row in table(find_entries([tmp_path]))] == ["b", "a", "c"]


def test_repetitions_have_students_interval(tmp_path: Path) -> None:
    values = {"full": [0.80, 0.84, 0.88], "linear_probe": [0.70, 0.71, 0.75]}
    for strategy, scores in values.items():
        for seed, score in enumerate(scores):
            write_run(tmp_path, f"{strategy}{seed}", [f"strategy={strategy}", f"seed={seed}"], score, test=score / 2)
    averages = {row["strategy"]: row for row in average_repeats(table(find_entries([tmp_path])))}
    assert set(averages) == set(values)
    for strategy, scores in values.items():
        row = averages[strategy]
        low, high = stats.t.interval(0.95, 2, sum(scores) / 3, stats.sem(scores))
        assert row["runs"] == 3 and row["value"] == pytest.approx(sum(scores) / 3)
        assert row["value +-"] == pytest.approx((high - low) / 2)
        assert row["test/x/score"] == pytest.approx(sum(scores) / 6)


def test_failed_runs_do_not_count_as_repeats(tmp_path: Path) -> None:
    for seed, score in enumerate([0.5, 0.7, None, None]):
        write_run(tmp_path, f"seed{seed}", [f"seed={seed}"], score)
    (average,) = average_repeats(table(find_entries([tmp_path])))
    assert average["runs"] == 2 and average["value"] == pytest.approx(0.6)


def test_runs_that_differ_in_more_are_no_repeats(tmp_path: Path) -> None:
    for name, lr in (("a", 0.1), ("b", 0.2)):
        write_run(tmp_path, name, [f"optimizer.lr={lr}"], lr)
    assert average_repeats(table(find_entries([tmp_path]))) == []


def test_a_run_is_listed_once(tmp_path: Path) -> None:
    write_run(tmp_path, "a", [], 0.5)
    (tmp_path / "nothing").mkdir()
    entries = find_entries([tmp_path, tmp_path / "a"])
    assert [entry.path.name for entry in entries] == ["a"]


def test_the_table_of_one_run(trained: object, run: RunDirectory, command: Command, tmp_path: Path) -> None:
    outcome = command("compare", run.path, "--csv", tmp_path / "one.csv")
    assert outcome.code == 0, outcome.err
    header, row = (line.split(",") for line in (tmp_path / "one.csv").read_text().splitlines())
    values = dict(zip(header, row, strict=True))
    assert values["run"] == run.path.name and values["epochs"] == "4"
    expected = json.loads(run.metrics.read_text())
    assert float(values["test/classification/accuracy"]) == expected["test/classification/accuracy"]
    assert float(values["value"]) == expected["val/classification/accuracy"]
    assert outcome.out.splitlines()[-2:] == [str(tmp_path / "one.html"), str(tmp_path / "one.csv")]
    page = (tmp_path / "one.html").read_text()
    (link,) = re.findall(r'<th scope="row"><a href="([^"]+)"', page)
    assert (tmp_path / unquote(link)).resolve() == (run.report / "index.html").resolve()
    assert "maximum of val/classification/accuracy" in page


def test_the_page_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_run(tmp_path, "a", ["optimizer.lr=0.2", "seed=1"], 0.5, mode="min")
    write_run(tmp_path, "b", ["optimizer.lr=0.2", "seed=2"], 0.25, mode="min")
    write_run(tmp_path, "c", ["optimizer.lr=0.3", "seed=1"], None)
    (tmp_path / "b" / "metrics.csv").write_text("epoch,val/x/score\n0,0.75\n1,0.25\n")
    status = json.loads((tmp_path / "c" / "status.json").read_text())
    write_json(tmp_path / "c" / "status.json", status | {"error": "RuntimeError: a | b\nmore"})
    compare([tmp_path], markdown=tmp_path / "table.md")
    page = (tmp_path / "sweep.html").read_text()
    assert [row.split("</a>")[0] for row in page.split('<th scope="row"><a href="')[1:]] == ['b">b', 'a">a', 'c">c']
    assert "3: 2 finished, 1 failed" in page and "minimum of val/x/score" in page and "Means over seed" in page
    assert '<td class="wide bad">RuntimeError: a | b</td>' in page and "visiontune compare" in page
    assert '{"name":"b","value":0.25,"epochs":[0,1],"values":[0.75,0.25]}' in page
    assert '{"key":"optimizer.lr","values":[0.2,0.2,0.3],"categories":[],"log":false}' in page
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[:3:2] == [
        "| run | optimizer.lr | seed | objective | value | best epoch | epochs | seconds | status |",
        "| b | 0.2 | 2 | val/x/score | 0.2500 | 2 | 1 | 2.5000 | finished |",
    ]
    assert capsys.readouterr().out.splitlines()[-3:] == [
        str(tmp_path / name) for name in ("table.md", "sweep.html", "sweep.csv")
    ]


def test_files_of_the_user_are_not_replaced_by_a_page(tmp_path: Path) -> None:
    write_run(tmp_path, "a", [], 0.5)
    (tmp_path / "notes.html").write_text("mine")
    with pytest.raises(UserError, match=r"notes.html exists and is not a page of compare, so it is not replaced"):
        compare([tmp_path], tmp_path / "notes.csv")
    assert (tmp_path / "notes.html").read_text() == "mine" and not (tmp_path / "notes.csv").exists()
    for _ in range(2):  # an earlier page is replaced
        compare([tmp_path], tmp_path / "table.csv")
    for name, markdown in (("x.html", None), ("x.csv", "x.csv"), ("x.csv", "x.html")):
        with pytest.raises(UserError, match="need different names"):
            compare([tmp_path], tmp_path / name, markdown and tmp_path / markdown)
