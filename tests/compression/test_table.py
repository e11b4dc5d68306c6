"""The table of a compression: its measurements, files and notes."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest

from visiontune.compression import measuring
from visiontune.compression.bootstrap import Estimate
from visiontune.compression.measuring import larger_drops, measure
from visiontune.compression.table import Row, text, write
from visiontune.runs import RunDirectory

ROWS = [
    Row(
        "original",
        2,
        {"test/detection/map": Estimate(0.5, 0.4, 0.6), "test/detection/map_50": Estimate(0.8, 0.7, 0.9)},
        Estimate(0, 0, 0),
        megabytes=44.8,
        parameters=11_181_642,
        macs=1_814_073_344,
        latency_ms=40.0,
        faster=1.0,
        throughput=31.2,
        peak_mb=700.4,
        joules=0.25,
    ),
    Row("original, compiled", 2, note="no C++ compiler"),
    Row(
        "1_int8",
        2,
        {"test/detection/map": Estimate(0.49, 0.39, 0.59), "test/detection/map_50": Estimate(0.8, 0.7, 0.9)},
        Estimate(-0.01, -0.02, 0.005),
        drops={"detection: cup": 4.0},
        mean_drop=1.0,
        megabytes=11.3,
        latency_ms=8.0,
        faster=5.0,
    ),
]


def test_the_written_table(tmp_path: Path) -> None:
    write(ROWS, tmp_path)
    flat = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [row["model"] for row in flat] == ["original", "original, compiled", "1_int8"]
    assert flat[0]["macs"] == "1814073344" and flat[0]["joules"] == "0.25" and flat[0]["threads"] == "2"
    assert [flat[2][f"test/detection/map{end}"] for end in ("", " low", " high")] == ["0.49", "0.39", "0.59"]
    assert flat[2]["change low"] == "-0.02" and flat[2]["drops"] == "detection: cup 4.00"
    assert flat[1]["test/detection/map"] == "" and flat[1]["note"] == "no C++ compiler"
    table, _, notes = (tmp_path / "table.md").read_text().partition("\n\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert {len(row) for row in cells} == {len(cells[0])} and len(cells) == 5
    by_name = {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}
    assert by_name["1_int8"]["test/detection/map"] == "0.4900 [0.3900, 0.5900]"
    assert by_name["1_int8"]["change"] == "-0.0100 [-0.0200, +0.0050]"
    assert by_name["1_int8"]["faster"] == "5.00" and by_name["1_int8"]["mJ an image"] == "-"
    assert by_name["original"]["MACs"] == "1,814,073,344" and by_name["original"]["mJ an image"] == "250.0"
    assert "2 threads" in notes and "original, compiled is left out: no C++ compiler" in notes
    assert "1_int8: classes lost 1.0 points in the mean, and more than twice that: detection: cup (4.0)" in notes
    better = replace(ROWS[-1], drops={"cup": 1.0}, mean_drop=-3.0)
    assert f"{better.name}: classes gained 3.0 points in the mean, and these lost: cup (1.0)" in text([ROWS[0], better])
    assert all(f"{row.name} " in text(ROWS) for row in ROWS)


def test_classes_that_lost_more_than_twice_the_mean() -> None:
    before = {"a": 0.9, "b": 0.9, "c": 0.9, "d": math.nan}
    drops, mean = larger_drops(before, {"a": 0.90, "b": 0.87, "c": 0.60, "d": math.nan})
    assert mean == pytest.approx(11) and drops == {"c": pytest.approx(30)}
    # If the others gain, a class that loses is listed; none is listed if nothing changes.
    drops, mean = larger_drops(before, {"a": 1.0, "b": 0.88, "c": 0.9, "d": math.nan})
    assert mean < 0 and drops == {"b": pytest.approx(2)}
    assert larger_drops(before, before) == ({}, pytest.approx(0))


@pytest.mark.slow
def test_a_run_is_measured(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics equal those of the run; the exported file has the same metrics and needs less memory."""
    monkeypatch.setattr(measuring, "ROUNDS", 3)
    monkeypatch.setattr(measuring, "BATCH_ROUNDS", 2)
    eager, exported = measure([run], threads=1, compile_first=False)
    assert (eager.name, exported.name) == ("original", "original, exported")
    assert eager.note == exported.note == ""
    predictions = {row["split"]: row for row in csv.DictReader(run.predictions.open())}
    rows = [row for row in csv.DictReader(run.predictions.open()) if row["split"] == "test"]
    accuracy = sum(row["truth"] == row["prediction"] for row in rows) / len(rows)
    for row in (eager, exported):
        assert next(iter(row.metrics)) == "test/classification/accuracy" and "test" in predictions
        assert row.metrics["test/classification/accuracy"].value == pytest.approx(accuracy)
        assert row.change == Estimate(0, 0, 0) and row.drops == {} and row.mean_drop == 0
        assert row.latency_ms > 0 and row.throughput > 1000 / row.latency_ms / 4
        assert row.parameters == eager.parameters and row.macs == eager.macs > row.parameters > 400
    assert eager.faster == 1 and eager.megabytes == pytest.approx(4 * eager.parameters / 1e6, rel=0.2)
    assert exported.megabytes > eager.megabytes  # the graph is larger than so few weights
    assert exported.peak_mb < eager.peak_mb / 2


def test_a_failed_export_is_a_note(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("an operation without a translation\nand a hundred lines")

    monkeypatch.setattr("visiontune.compression.variants.write", fail)
    monkeypatch.setattr(measuring, "ROUNDS", 1)
    monkeypatch.setattr(measuring, "BATCH_ROUNDS", 1)
    monkeypatch.setattr(measuring, "measure_peak_mb", lambda *_: 1.0)
    eager, exported = measure([run], threads=1, compile_first=False)
    assert eager.peak_mb == 1.0 and math.isnan(exported.latency_ms)
    assert exported.note == "an operation without a translation"
