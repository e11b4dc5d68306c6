"""The page that compares runs: what it holds, and that text from files stays text."""

import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from omegaconf import OmegaConf
from PIL import Image

from visiontune.runs import RunDirectory
from visiontune.runs.predictions import Row, write_predictions
from visiontune.sweeps.page.axes import build_axis
from visiontune.sweeps.page.curves import thin
from visiontune.sweeps.page.importance import key_importance
from visiontune.sweeps.page.page import PageRun, SweepPage, write_page
from visiontune.sweeps.page.samples import compare_predictions
from visiontune.sweeps.study.curves import read_curve

OBJECTIVE = "val/classification/accuracy"


class Tables(HTMLParser):
    """The cells of each table, the links, and the headings of the columns with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.links: dict[str, str] = {}
        self.sorting: dict[str, str] = {}
        self.elements: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in ("meta", "img"):
            self._open.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, text: str) -> None:
        tags = [tag for tag, _ in self._open]
        if "td" in tags or "th" in tags:
            self.tables[-1][-1][-1] += text
        for tag, attributes in self._open[-2:]:
            if tag == "a":
                self.links[text] = attributes["href"] or ""
            elif "aria-sort" in attributes:
                self.sorting[text] = attributes["aria-sort"] or ""


def build_runs(count: int, epochs: int, draw: random.Random) -> list[PageRun]:
    """Runs whose objective depends on the learning rate and a little on the strategy; every tenth has failed."""
    runs = []
    for number in range(count):
        lr, strategy = 10 ** draw.uniform(-4, -1), draw.choice(["full", "linear_probe", "gradual_unfreeze"])
        failed = number % 10 == 9
        value = 0.9 - 0.1 * (math.log10(lr) + 2.5) ** 2 + 0.02 * (strategy == "full") + draw.gauss(0, 0.005)
        settings = {"optimizer.lr": f"{lr:.3g}", "strategy": strategy, "seed": str(number % 5)}
        cells = {"best epoch": epochs, "epochs": epochs, "seconds": round(draw.uniform(10, 60), 1)}
        curve = [(epoch, value - 0.5 * math.exp(-epoch * 10 / epochs)) for epoch in range(epochs + 1)]
        runs.append(
            PageRun(f"{number:03d}", settings, math.nan, "failed", error="RuntimeError: no memory is left")
            if failed
            else PageRun(f"{number:03d}", settings, value, "finished", cells, curve=curve)
        )
    columns = {name: "" for run in runs for name in run.cells}
    runs = [PageRun(**{**vars(run), "cells": columns | run.cells}) for run in runs]
    return sorted(runs, key=lambda run: math.inf if math.isnan(run.value) else -run.value)


def read_data(page: str) -> dict:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match
    return json.loads(match[1])


def test_a_thousand_runs_are_one_file_that_needs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visiontune.sweeps.page.page.key_importance", lambda axes, values: {"optimizer.lr": 0.75})
    runs = build_runs(1000, 300, random.Random(0))
    write_page(tmp_path / "sweep.html", SweepPage("first", "visiontune train -m", OBJECTIVE, "max", runs, ("seed",)))
    page = (tmp_path / "sweep.html").read_text()
    assert len(page.encode()) < 5_000_000
    assert not re.search(r'(src|href)="(?!data:)|url\(|https?://(?!www\.w3\.org/2000/svg")', page)
    tables = Tables(page)
    header, *rows = tables.tables[0]
    assert header == [
        "run", "value", "optimizer.lr", "strategy", "seed", "best epoch", "epochs", "seconds", "status", "error",
    ]  # fmt: skip
    assert [row[0] for row in rows] == [run.name for run in runs] and tables.sorting == {"value": "descending"}
    assert rows[-1][-2:] == ["failed", "RuntimeError: no memory is left"] and rows[-1][1] == ""
    assert "1000: 900 finished, 100 failed" in page and f"{runs[0].name}, {runs[0].value:.4f}" in page
    data = read_data(page)
    assert [run["name"] for run in data["runs"]] == [run.name for run in runs]
    assert all(len(run["epochs"]) == len(run["values"]) <= 200 for run in data["runs"])
    assert data["runs"][0]["epochs"][0] == 0 and data["runs"][0]["epochs"][-1] == 300
    assert [(axis["key"], axis["log"], axis["categories"]) for axis in data["axes"]] == [
        ("optimizer.lr", True, []),
        ("strategy", False, ["full", "gradual_unfreeze", "linear_probe"]),
        ("seed", False, []),
    ]
    assert tables.tables[1] == [["optimizer.lr", "75%", ""], ["several keys together", "25%", ""]]


def test_text_from_files_stays_text(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>\"'&\x00\udcff"
    runs = [
        PageRun(evil, {"data.root": evil, "a": "1"}, 0.5, "finished", {"test/<b>": 0.25}, curve=[(0, 0.1)]),
        PageRun("b", {"data.root": "</table>", "a": "2"}, math.nan, "failed", {"test/<b>": ""}, error=evil),
    ]
    content = SweepPage(evil, evil, "val/</script>", "min", runs, ("seed",), [{"a": evil, "runs": 2}])
    write_page(tmp_path / "sweep.html", content)
    page = (tmp_path / "sweep.html").read_text()
    tables = Tables(page)
    assert "img" not in tables.elements and tables.elements.count("script") == 2
    shown = evil.replace("\x00", "\\x00").replace("\udcff", "\\udcff")
    assert tables.tables[0][1] == [shown, "0.5", shown, "1", "0.2500", "finished", ""]
    assert tables.tables[0][2] == ["b", "", "</table>", "2", "", "failed", shown]
    data = read_data(page)
    assert data["runs"][0] == {"name": shown, "value": 0.5, "epochs": [0], "values": [0.1]}
    assert data["objective"] == "val/</script>" and data["axes"][0]["categories"] == [shown, "</table>"]


def test_links_lead_to_the_reports(tmp_path: Path) -> None:
    folder = tmp_path / "läufe #1, 50% ?" / "a:0"
    (folder / "report").mkdir(parents=True)
    report = folder / "report" / "index.html"
    report.touch()
    runs = [PageRun("a", {}, 0.5, "finished", target=report), PageRun("b", {}, math.nan, "waiting")]
    (tmp_path / "pages").mkdir()
    write_page(tmp_path / "pages" / "p.html", SweepPage("t", "c", OBJECTIVE, "max", runs))
    page = (tmp_path / "pages" / "p.html").read_text()
    links = Tables(page).links
    assert set(links) == {"a"} and re.fullmatch(r"[\w./%-]+", links["a"])
    assert (tmp_path / "pages" / unquote(links["a"])).resolve() == report.resolve()
    assert 'id="parallel"' not in page and 'id="curves"' not in page  # neither keys nor curves


def test_a_sweep_without_a_finished_run_has_a_page(tmp_path: Path) -> None:
    write_page(tmp_path / "p.html", SweepPage("t", "c", "", "max", [PageRun("a", {"x": "1"}, math.nan, "waiting")]))
    assert Tables((tmp_path / "p.html").read_text()).tables == [
        [["run", "value", "x", "status"], ["a", "", "1", "waiting"]]
    ]


def test_numbers_and_categories() -> None:
    assert build_axis("a", ["1e-3", "", "0.2"]).values == [0.001, None, 0.2]
    assert build_axis("a", ["1e-3", "1e-1"]).log is False and build_axis("a", ["1e-3", "0.2"]).log is True
    assert build_axis("a", ["0", "1000"]).log is False
    axis = build_axis("a", ["x", "1", "nan", "x"])
    assert axis.values == [2, 0, 1, 2] and axis.categories == ["1", "nan", "x"]


def test_importance_is_that_of_a_known_function() -> None:
    """y = 3 a + b with independent a, b on a grid: variances 9 to 1, and none for c."""
    grid = [(a, b, c) for a in range(4) for b in range(4) for c in ("x", "y")]
    axes = [
        build_axis(key, [str(10 ** point[i] if i == 0 else point[i]) for point in grid]) for i, key in enumerate("abc")
    ]
    assert axes[0].log
    values = [3.0 * a + b for a, b, _ in grid]
    shares = key_importance(axes, values)
    assert list(shares) == ["a", "b", "c"]
    assert shares["a"] == pytest.approx(0.9, abs=0.07) and shares["b"] == pytest.approx(0.1, abs=0.07)
    assert shares["c"] < 0.01 and key_importance(axes, values) == shares
    assert key_importance(axes, [math.nan] * 25 + values[:7]) == {} and key_importance(axes, [0.5] * 32) == {}


def test_curves(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,val/x\n0,0,0.5\n1,4,\n2,8,nan\n3,12,0.75\n")
    assert read_curve(tmp_path / "metrics.csv", "val/x") == [(0, 0.5), (3, 0.75)]
    assert read_curve(tmp_path / "metrics.csv", "val/y") == [] == read_curve(tmp_path / "none.csv", "val/x")
    curve = [(epoch, float(epoch % 7 + 10 * (epoch == 501))) for epoch in range(1001)]
    thinned = thin(curve, 50)
    assert len(thinned) <= 50 and thinned[0] == curve[0] and thinned[-1] == curve[-1] and (501, 14.0) in thinned


def test_samples_that_runs_predict_differently(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "2.png")
    runs = {}
    for name, predictions in {"a": "xyx", "b": "xxy", "c": "xxx"}.items():
        runs[name] = RunDirectory.create(tmp_path / name)
        runs[name].write_config(OmegaConf.create({"data": {"root": str(tmp_path), "images": "."}}))
        rows = [
            Row(f"{i}.png", "val", "classification", "x", label, 0.91, i * (label == "y"))
            for i, label in enumerate(predictions)
        ]
        write_predictions(runs[name].predictions, [*rows, Row("9.png", "test", "classification", "x", name, 0.5, 1)])
    samples = compare_predictions(runs, "classification")
    assert [(sample.path, sample.truth) for sample in samples] == [("2.png", "x"), ("1.png", "x")]
    assert samples[0].predictions == {"a": "x 0.91", "b": "y 0.91", "c": "x 0.91"}
    assert samples[0].image.startswith("data:image/jpeg;base64,") and samples[1].image == ""
    assert compare_predictions(runs, "detection") == []
    write_page(
        tmp_path / "p.html", SweepPage("t", "c", OBJECTIVE, "max", [PageRun("a", {}, 0.5, "finished")], samples=samples)
    )
    table = Tables((tmp_path / "p.html").read_text()).tables[-1]
    assert table[:2] == [["sample", "truth", "a", "b", "c"], ["2.png", "x", "x 0.91", "y 0.91", "x 0.91"]]
