"""Reports, figures and loggers with names as people have them, and runs that stay finished."""

import csv
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from inputs import write_folders
from PIL import Image
from running import SMALL, TINY, Command, Outcome

from visiontune import train
from visiontune.analysis.page import write_page
from visiontune.analysis.tables import render
from visiontune.callbacks import History
from visiontune.errors import one_line
from visiontune.loggers.mlflow import MLFlowLogger
from visiontune.models.heads.classification import ClassificationHead, ClassificationMetrics
from visiontune.models.heads.drawing import caption, confusion_figure, save_figure
from visiontune.models.heads.overlays import draw_label_map, draw_objects, side_by_side
from visiontune.runs import RunDirectory

# A formula that matplotlib cannot read, HTML, markup, other scripts, text that becomes equal when it is cleaned.
NAMES = [
    "$5",
    "$\\frac{a$",
    "100%",
    "a_b^c",
    "<b>x",
    "[red]x",
    ":smile:",
    "{x}",
    "猫",
    "🐈",
    "قطة",
    "Vögel",
    "a" * 200,
]


@pytest.fixture(scope="module")
def prices(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run whose classes have all these names."""
    root = tmp_path_factory.mktemp("prices")
    write_folders(root, NAMES, 6)
    more = ["data=image_folder", f"data.root={root}", "trainer.max_epochs=1", "logger=[tensorboard,csv]"]
    return command("train", *SMALL, *more, "monitor=val/classification/loss", f"run_dir={root.parent / 'prices_run'}")


def test_names_stay_as_they_are(prices: Outcome) -> None:
    run = prices.run
    assert run.read_status()["status"] == "finished" and prices.err == ""
    assert "warning" not in prices.out and "Glyph" not in run.log.read_text()
    with run.predictions.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["truth"] for row in rows} == set(NAMES)
    assert ":smile:" in prices.out and "[red]x" in prices.out  # in the table of the plan
    assert {path.name for path in run.report.iterdir()} == {
        "index.html", "curves.png", "test_classification_confusion_matrix.png", "test_classification_worst.png",
    }  # fmt: skip


def test_a_dollar_is_drawn_as_a_dollar(tmp_path: Path) -> None:
    matrix = torch.eye(2).long()
    for name, names in (("one", ["$a_b$", "b"]), ("two", ["a_b", "b"]), ("three", ["$a_b$", "b"])):
        save_figure(confusion_figure(matrix, names), tmp_path / f"{name}.png")
    one, two, three = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("one", "two", "three"))
    assert np.array_equal(one, three) and (one.shape != two.shape or not np.array_equal(one, two))
    (label, _) = confusion_figure(matrix, ["$\\frac{a$\n" + "x" * 100, "b"]).axes[0].get_xticklabels()
    assert label.get_text() == "$\\frac{a$\\n" + "x" * 15 + "…" + "x" * 13 and len(label.get_text()) == 40
    assert not label.get_parse_math()


def test_characters_without_a_glyph_are_no_flood_of_warnings(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(confusion_figure(torch.eye(3).long(), ["猫 🐈", "قطة", "\u200bx"]), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").is_file()


@pytest.mark.parametrize(
    "name", ["two\nlines", "\x1b[31mred", "nul\0", "\ud800", "\u2028", "猫🐈قطة", "", " ", "x" * 3000]
)
def test_any_text_is_drawn_on_an_image(name: str) -> None:
    image = torch.zeros(3, 200, 200, dtype=torch.uint8)
    assert caption(image, [name, "b"]).shape[0] == 3
    assert draw_objects(image, torch.tensor([[5, 60, 50, 90]]), [name], classes=[name]).shape == (3, 200, 200)
    assert draw_label_map(image, torch.zeros(200, 200, dtype=torch.uint8), [name, "b"]).shape[1] > 200
    assert side_by_side([image], [name]).shape[0] == 3


def test_one_line() -> None:
    assert one_line("a\nb\tc\x1b[0m\ud800é猫") == "a\\nb\\tc\\x1b[0m\\ud800é猫"
    assert one_line("0123456789" * 10, 20) == "0123456789012" + "…" + "456789"
    assert render("", ["class"], [["a\nb"], [":cat:"]]).splitlines() == ["class", "a\\nb", ":cat:"]


def test_the_page_escapes_names(tmp_path: Path) -> None:
    metrics = {"test/segmentation/iou/<script>x</script>": 0.5, 'test/segmentation/iou/"&': 1.0}
    write_page(tmp_path, RunDirectory(tmp_path), "test", metrics, ['"><b>.png'])
    page = (tmp_path / "index.html").read_text()
    assert "<script>" not in page and "<td>test/segmentation/iou/&lt;script&gt;x&lt;/script&gt;</td>" in page
    assert "&quot;&amp;</td>" in page and '"><b>' not in page


def test_names_for_mlflow_stay_different() -> None:
    logger: Any = SimpleNamespace(names={})
    names = ["iou/a$", "iou/a%", "iou/a_", "iou/..", "iou//", "iou/" + "x" * 500]
    cleaned = [MLFlowLogger._unique_name(logger, name) for name in names]
    assert cleaned[:4] == ["iou/a_", "iou/a__2", "iou/a__3", "iou/_"]
    assert len(set(cleaned)) == len(names) and max(map(len, cleaned)) < 250
    assert [MLFlowLogger._unique_name(logger, name) for name in names] == cleaned


def test_a_class_may_be_called_step(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(
        callback_metrics={"val/x/iou/first_step": 0.5, "train/loss_step": 1.0, "val/loss": 2.0},
        is_global_zero=True, global_step=3, max_epochs=1,
    )  # fmt: skip
    History(tmp_path / "metrics.csv", ("val/loss", "min"))._write_row(trainer, 1)
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "epoch,step,seconds,val/loss,val/x/iou/first_step"


def test_what_fails_after_the_training_is_a_warning(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure and a drawing fail; the rest of the report is written."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such colour")

    monkeypatch.setattr(ClassificationHead, "figures", fail)
    monkeypatch.setattr(ClassificationHead, "draw", fail)
    outcome = command("train", *TINY, "trainer.max_epochs=1")
    assert outcome.run.read_status()["status"] == "finished"
    assert "warning: the figures of classification are missing: RuntimeError: no such colour" in outcome.out
    assert "warning: the worst samples of classification are not drawn: RuntimeError: no such colour" in outcome.out
    assert {path.name for path in outcome.run.report.iterdir()} == {"index.html", "curves.png"}


@pytest.mark.slow
def test_metrics_that_fail_on_the_test_split_leave_the_run_finished(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ClassificationMetrics.compute

    def compute(self: ClassificationMetrics) -> dict[str, torch.Tensor]:
        computed = original(self)
        if int(computed["confusion_matrix"].sum()) == 270:  # images of the test split; 269 of val
            raise ValueError("the split is odd")
        return computed

    monkeypatch.setattr(ClassificationMetrics, "compute", compute)
    outcome = command("train", *TINY)
    run = outcome.run
    assert "warning: test has no metrics of classification: ValueError: the split is odd" in outcome.out
    metrics = json.loads(run.metrics.read_text())
    assert "val/classification/accuracy" in metrics and "test/classification/accuracy" not in metrics
    assert metrics["test/classification/loss"] > 0
    failed = command("evaluate", f"run={run.path}")
    assert (
        failed.code == 1
        and failed.err == "error: test has no metrics of classification: ValueError: the split is odd\n"
    )
    assert "test/classification/loss" in failed.out


@pytest.mark.slow
def test_an_interrupted_evaluation_is_completed(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has trained all its epochs, but was stopped while it was evaluated."""

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train, "measure", kill)
        with pytest.raises(Killed):
            command("train", *TINY, f"run_dir={tmp_path / 'run'}")
    run = RunDirectory(tmp_path / "run")
    last = run.checkpoint("last").read_bytes()
    assert not run.metrics.exists() and run.read_status()["status"] != "finished"
    assert command("train", f"run={run.path}").code == 0
    assert run.read_status()["status"] == "finished" and run.metrics.is_file() and (run.report / "index.html").is_file()
    state = torch.load(run.checkpoint("last"), weights_only=True)
    (tmp_path / "before.ckpt").write_bytes(last)
    earlier = torch.load(tmp_path / "before.ckpt", weights_only=True)
    assert all(torch.equal(state["state_dict"][name], value) for name, value in earlier["state_dict"].items())
