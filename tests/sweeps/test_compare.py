"""The table and the page of runs, and means over seeds with intervals."""

import itertools
import json
import math
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from omegaconf import OmegaConf
from running import Command
from scipy import stats

from visiontune.errors import UserError
from visiontune.runs import RunDirectory
from visiontune.runs.files import write_json
from visiontune.runs.predictions import Row, write_predictions
from visiontune.sweeps.comparison.compare import compare
from visiontune.sweeps.comparison.groups import summarize_groups
from visiontune.sweeps.comparison.table import find_entries, table


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


def groups(folder: Path, baseline: str | None = None) -> list[dict]:
    entries = find_entries([folder])
    return summarize_groups(table(entries), {entry.path.name: entry for entry in entries}, baseline)


def write_splits(folder: Path, val: str) -> None:
    """splits.csv of nine images, of which those in `val` are not trained on."""
    lines = [f"{letter},{'val' if letter in val else 'train'},,{letter}," for letter in "abcdefghi"]
    (folder / "splits.csv").write_text("\n".join(["path,split,group,content,labels", *lines]))


def test_seeds_are_groups_with_differences_and_verdicts(tmp_path: Path) -> None:
    values = {"full": [0.80, 0.84, 0.88], "linear_probe": [0.60, 0.63, 0.69], "last_k": [0.79, 0.85, 0.87]}
    for strategy, scores in values.items():
        for seed, score in enumerate(scores):
            write_run(tmp_path, f"{strategy}{seed}", [f"strategy={strategy}", f"seed={seed}"], score, test=score / 2)
    best, close, worse = groups(tmp_path)
    low, high = stats.t.interval(0.95, 2, 0.84, stats.sem(values["full"]))
    assert best == {
        "strategy": "full", "metric": "val/x/score", "repeats": 3, "mean": pytest.approx(0.84),
        "low": pytest.approx(low), "high": pytest.approx(high), "difference": "", "difference low": "",
        "difference high": "", "p": "", "verdict": "best", "test/x/score": pytest.approx(0.42),
    }  # fmt: skip
    assert (close["strategy"], close["verdict"]) == ("last_k", "not distinguishable from the best")
    assert (worse["strategy"], worse["verdict"]) == ("linear_probe", "worse")
    assert worse["difference"] == pytest.approx(-0.2) and worse["difference high"] < 0 and worse["p"] <= 0.05
    for baseline in ("linear_probe1", "strategy=linear_probe"):
        assert [row["verdict"] for row in groups(tmp_path, baseline)] == ["better", "better", "baseline"]


def test_seeds_that_draw_other_splits_have_wider_intervals(tmp_path: Path) -> None:
    for seed, score in enumerate([0.5, 0.6, 0.9]):
        write_run(tmp_path, f"seed{seed}", [f"seed={seed}"], score)
        write_splits(tmp_path / f"seed{seed}", "abc")
    (same,) = groups(tmp_path)
    for seed, val in enumerate(["abc", "def", "aef"]):
        write_splits(tmp_path / f"seed{seed}", val)
    (others,) = groups(tmp_path)
    widths = [row["high"] - row["low"] for row in (same, others)]
    assert widths[1] / widths[0] == pytest.approx(math.sqrt((1 / 3 + 3 / 6) / (1 / 3)))


def test_predictions_of_held_out_folds_are_joined(tmp_path: Path, command: Command) -> None:
    for fold, lr in itertools.product((0, 1), (0.1, 0.2)):
        name = f"{fold}-{lr}"
        write_run(tmp_path, name, [f"data.fold={fold}", f"optimizer.lr={lr}"], 0.5, test=0.5)
        rows = [Row(f"{split}{fold}.png", split, "x", "cat", "dog", 0.5, lr) for split in ("val", "test")]
        write_predictions(RunDirectory(tmp_path / name).predictions, rows)
    assert command("compare", tmp_path, "--csv", tmp_path / "table.csv").code == 0
    lines = (tmp_path / "table_out_of_fold.csv").read_text().splitlines()
    assert lines == [
        "run,data.fold,optimizer.lr,path,split,task,truth,prediction,score,loss",
        "0-0.1,0,0.1,test0.png,test,x,cat,dog,0.500000,0.100000",
        "0-0.2,0,0.2,test0.png,test,x,cat,dog,0.500000,0.200000",
        "1-0.1,1,0.1,test1.png,test,x,cat,dog,0.500000,0.100000",
        "1-0.2,1,0.2,test1.png,test,x,cat,dog,0.500000,0.200000",
    ]


def test_damaged_predictions_are_one_message(tmp_path: Path, command: Command) -> None:
    for fold in (0, 1):
        write_run(tmp_path, str(fold), [f"data.fold={fold}"], 0.5, test=0.5)
        RunDirectory(tmp_path / str(fold)).predictions.write_text("path,loss\na.png,1\n")
    outcome = command("compare", tmp_path)
    assert outcome.code == 2 and "predictions.csv: expected the columns path, split, task" in outcome.err


def test_folds_are_compared_by_the_held_out_fold(tmp_path: Path) -> None:
    scores = [0.5, 0.6, 0.9, 0.8]
    for fold, score in enumerate(scores):
        write_run(tmp_path, f"fold{fold}", [f"data.fold={fold}"], 1.0, test=score)
        RunDirectory(tmp_path / f"fold{fold}").write_config(OmegaConf.create({"data": {"folds": 5, "fold": fold}}))
    (group,) = groups(tmp_path)
    assert (group["metric"], group["repeats"], group["mean"]) == ("test/x/score", 4, pytest.approx(0.7))
    half = stats.t.ppf(0.975, 3) * math.sqrt((1 / 4 + 1 / 4) * np.var(scores, ddof=1))
    assert group["high"] - group["mean"] == pytest.approx(half)


def test_the_overlap_of_several_numbers_of_folds_is_that_of_the_smallest(tmp_path: Path) -> None:
    for folds, fold in ((10, 0), (5, 1), (5, 2)):
        name = f"{fold}of{folds}"
        write_run(tmp_path, name, [f"data.fold={fold}", f"data.folds={folds}"], 1.0 - fold / 10, test=fold / 10)
        RunDirectory(tmp_path / name).write_config(OmegaConf.create({"data": {"folds": folds, "fold": fold}}))
    group = next(group for group in groups(tmp_path) if group["data.folds"] == "5")
    half = stats.t.ppf(0.975, 1) * math.sqrt((1 / 2 + 1 / 4) * np.var([0.1, 0.2], ddof=1))
    assert group["high"] - group["mean"] == pytest.approx(half)


def test_failed_runs_do_not_count_as_repeats(tmp_path: Path) -> None:
    for seed, score in enumerate([0.5, 0.7, None, None]):
        write_run(tmp_path, f"seed{seed}", [f"seed={seed}"], score)
    (group,) = groups(tmp_path)
    assert group["repeats"] == 2 and group["mean"] == pytest.approx(0.6)


def test_a_soup_is_no_repeat(tmp_path: Path) -> None:
    for seed, score in enumerate([0.5, 0.7]):
        write_run(tmp_path, f"seed{seed}", [f"seed={seed}"], score)
    write_run(tmp_path, "soup", ["seed=1"], 0.9)  # with the command line of its best member
    (tmp_path / "soup/soup.json").write_text("{}")
    (group,) = groups(tmp_path)
    assert group["repeats"] == 2 and group["mean"] == pytest.approx(0.6)


def test_runs_that_differ_in_more_are_no_repeats(tmp_path: Path) -> None:
    for name, lr in (("a", 0.1), ("b", 0.2)):
        write_run(tmp_path, name, [f"optimizer.lr={lr}"], lr)
    assert groups(tmp_path) == []
    with pytest.raises(UserError, match=r"--baseline a: no two runs differ only in seed or data\.fold"):
        groups(tmp_path, "a")


@pytest.mark.parametrize(
    ("baseline", "problem"),
    [("c", "there is no such run or group"), ("strategy=half", "no such"), ("lr=1", "no such"), ("'", "no such")],
)
def test_a_baseline_that_is_not_a_group(tmp_path: Path, baseline: str, problem: str) -> None:
    for seed in (0, 1):
        write_run(tmp_path, f"run{seed}", ["strategy=full", f"seed={seed}"], 0.5 + seed)
        write_run(tmp_path, f"other{seed}", ["strategy=last_k", f"seed={seed}"], 0.6 + seed)
    with pytest.raises(UserError, match=f"{problem}.*such as --baseline strategy=last_k"):
        groups(tmp_path, baseline)
    write_run(tmp_path, "failed", ["strategy=lp_ft", "seed=0"], None)
    with pytest.raises(UserError, match="--baseline failed: expected a group with finished runs"):
        groups(tmp_path, "failed")


def test_the_groups_are_printed_and_saved(tmp_path: Path, command: Command) -> None:
    for seed in range(3):
        write_run(tmp_path, f"00{seed}", ["strategy=full", f"seed={seed}"], 0.8 + 0.01 * seed)
        write_run(tmp_path, f"01{seed}", ["strategy=last_k", f"seed={seed}"], 0.5 + 0.011 * seed)
    outcome = command("compare", tmp_path, "--baseline", "strategy=full")
    assert outcome.code == 0, outcome.err
    assert "mean over seed" in outcome.out and "worse" in outcome.out
    header, *lines = (line.split(",") for line in (tmp_path / "sweep_groups.csv").read_text().splitlines())
    verdicts = {line[0]: line[header.index("verdict")] for line in lines}
    assert verdicts == {"full": "baseline", "last_k": "worse"}
    (tmp_path / "mine_groups.csv").write_text("a,b\n")
    outcome = command("compare", tmp_path, "--csv", tmp_path / "mine.csv")
    assert outcome.code == 2 and "mine_groups.csv exists and has no column verdict" in outcome.err


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
