"""`evaluate` on other labelled data, and the report made again."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from inputs import write_folders
from PIL import Image
from running import SMALL, Command, Outcome, TrainOnce, mostly_slow
from torch import Tensor, tensor

from visiontune.data import TaskInfo
from visiontune.data.matching import match_classes
from visiontune.data.schema import Sample, Source
from visiontune.data.targets import IGNORE, LabelMap, objects
from visiontune.errors import UserError
from visiontune.runs import RunDirectory


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def copy_test_split(run: RunDirectory, root: Path, folder: Path, rename: Callable[[str], str] = str) -> Path:
    """The images of the run's test split in another folder."""
    for row in rows(run.splits):
        if row["split"] == "test":
            name = rename(row["path"])
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / row["path"], folder / name)
    return folder


def test_the_files_of_the_test_split_elsewhere_have_the_same_metrics_and_predictions(
    run: RunDirectory, tiles: Path, command: Command, tmp_path: Path
) -> None:
    other = copy_test_split(run, tiles, tmp_path / "other")
    outcome = command("evaluate", f"run={run.path}", f"data_root={other}", "split=all", f"output={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.err
    expected = {name: value for name, value in json.loads(run.metrics.read_text()).items() if name.startswith("test/")}
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics == {name.replace("test/", "all/", 1): value for name, value in expected.items()}
    predictions = [{**row, "split": "all"} for row in rows(run.predictions) if row["split"] == "test"]
    assert rows(tmp_path / "out" / "predictions.csv") == predictions
    assert f"all/classification/accuracy{'':15}{expected['test/classification/accuracy']:.8f}" in outcome.out


def test_classes_are_matched_by_name(run: RunDirectory, tiles: Path, command: Command, tmp_path: Path) -> None:
    """The classes of the run are brick, grass and sky."""
    names = {"brick": "rot", "grass": "grass", "sky": "air"}  # in another order, since air is first
    other = copy_test_split(
        run, tiles, tmp_path / "other", lambda path: f"test/{names[path.split('/')[0]]}/{path[-6:]}"
    )
    arguments = ["evaluate", f"run={run.path}", f"data_root={other}", "split=all", f"output={tmp_path / 'out'}"]
    message = command(*arguments).message
    assert message.startswith(
        "classification: the run does not know these classes of the data: air, rot; it knows brick, grass, sky. Write "
        "which of them they are, such as 'classes={air: brick}', or leave out their labels: 'classes={air: null}'"
    )
    assert not (tmp_path / "out").exists()
    assert "has no class 'rost'; it has air, grass, rot" in command(*arguments, "classes={rost: brick}").message
    assert command(*arguments, "classes={rot: brick, air: sky}").code == 0
    expected = json.loads(run.metrics.read_text())["test/classification/accuracy"]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["all/classification/accuracy"] == expected
    truth = {row["path"]: row["truth"] for row in rows(tmp_path / "out" / "predictions.csv")}
    assert {path.split("/")[1]: name for path, name in truth.items()} == {
        "rot": "brick",
        "grass": "grass",
        "air": "sky",
    }
    outcome = command(*arguments, "classes={rot: brick, air: null}")
    count = sum(row["path"].startswith("sky/") and row["split"] == "test" for row in rows(run.splits))
    assert f"note: classification: {count} labels of 'air' are left out (classes)" in outcome.out.splitlines()
    assert f"note: {count} of {len(truth)} images have no label and are left out" in outcome.out.splitlines()
    assert len(rows(tmp_path / "out" / "predictions.csv")) == len(truth) - count


def test_a_single_class_can_be_evaluated(run: RunDirectory, tiles: Path, command: Command, tmp_path: Path) -> None:
    shutil.copytree(tiles / "sky", tmp_path / "photos" / "sky")
    outcome = command("evaluate", f"run={run.path}", f"data_root={tmp_path}", "split=all", "data_keys={images: photos}")
    assert outcome.code == 0, outcome.err
    assert command("evaluate", f"run={run.path}", f"data_root={tmp_path / 'photos'}", "split=all").code == 0
    refused = command("evaluate", f"run={run.path}", f"data_root={tmp_path / 'photos'}")  # the run's own test split
    assert refused.code == 2 and "has a single class, 'sky'" in refused.message
    write_folders(tmp_path / "two", ["brick", "sky"], 2)
    message = command("evaluate", f"run={run.path}", f"data_root={tmp_path / 'two'}").message
    assert "too few" in message and message.endswith("is another data set, write split=all")
    assert "split=all, not split=test" in command("evaluate", f"run={run.path}", "data_keys={images: photos}").message


@pytest.mark.slow
def test_a_table_with_other_classes_and_columns(train_once: TrainOnce, command: Command, tmp_path: Path) -> None:
    root = write_folders(tmp_path / "images", ["a"], 12).parent
    lines = [f"images/a/{i:02d}.png,{'cat' if i % 2 else 'dog'},{i},{i % 3}" for i in range(12)]
    (root / "t.csv").write_text("\n".join(["path,kind,age,size", *lines]))
    more = ["data=csv", f"data.root={root}", "data.table=t.csv", "data.label=kind", "data.classes=[dog,cat]"]
    more += ["data.targets=[age,size]", "heads=[classification,regression]", "trainer.max_epochs=1", "logger=none"]
    run = command("train", *SMALL, *more).run
    other = [f"images/a/{i:02d}.png;{i % 3};{i};{'katze' if i % 2 else 'dog'}" for i in range(6)]
    (root / "other.csv").write_text("\n".join(["path;size;alter;art", *other]))
    arguments = [
        "evaluate",
        f"run={run.path}",
        "split=all",
        f"output={tmp_path / 'out'}",
        "classes={katze: cat, alter: age}",
    ]
    outcome = command(*arguments, "data_keys={table: other.csv, label: art, targets: [size, alter]}")
    assert outcome.code == 0, outcome.err
    truth = {(row["path"], row["task"]): row["truth"] for row in rows(tmp_path / "out" / "predictions.csv")}
    assert truth["images/a/05.png", "classification"] == "cat"
    assert truth["images/a/05.png", "regression"] == "age 5, size 2"
    refused = command(*arguments[:-1], "data_keys={table: other.csv, label: art, targets: [size, alter]}").message
    assert "katze" in refused and "dog, cat" in refused


def sample(**targets: Any) -> Sample:
    return Sample("1.png", targets)


def match(kind: str, theirs: list[str], ours: list[str], target: Any, **names: str | None) -> Any:
    """The matched target of one image."""
    source = Source({"task": TaskInfo(kind, theirs)}, [sample(task=target)])
    return match_classes(source, {"task": TaskInfo(kind, ours)}, names).samples[0].targets["task"]


def test_targets_of_every_kind_get_the_numbers_of_the_model() -> None:
    ours = ["cat", "dog", "owl"]
    assert match("classification", ["owl", "cat"], ours, 0) == 2
    labels = match("multilabel", ["owl", "cat"], ours, tensor([1.0, 0.0]))
    assert labels[[0, 2]].tolist() == [0, 1] and bool(labels[1].isnan())  # dog is unknown
    assert match("regression", ["y", "x"], ["x", "y"], tensor([1.0, 2.0])).tolist() == [2, 1]
    label_map = match(
        "segmentation", ["owl", "cat", "sky"], ours, LabelMap(tensor([[0, 1, 2, IGNORE]]).byte()), sky=None
    )
    assert label_map.tolist() == [[2, 0, IGNORE, IGNORE]] and isinstance(label_map, LabelMap)
    boxes = [[0, 0, 4, 4], [1, 1, 5, 5], [2, 2, 6, 6]]
    target = objects(boxes, [0, 1, 2], (8, 8), masks=torch.eye(3).reshape(3, 1, 3), area=[1, 2, 3])
    matched: dict[str, Tensor] = match("instances", ["owl", "sky", "cat"], ours, target, sky=None)
    assert matched["labels"].tolist() == [2, 0] and matched["boxes"].tolist() == [boxes[0], boxes[2]]
    assert matched["area"].tolist() == [1, 3] and len(matched["masks"]) == len(matched["crowd"]) == 2
    assert type(matched["boxes"]) is type(target["boxes"])
    # Another Unicode form is the same name; a class without labels need not be known.
    assert match("classification", ["Vo\u0308gel", "sky"], ["cat", "V\u00f6gel"], 0) == 1


def test_values_that_the_model_needs_must_be_there() -> None:
    with pytest.raises(UserError, match="task: the data has x, and the run needs each of x, y once"):
        match("regression", ["x"], ["x", "y"], tensor([1.0]))
    with pytest.raises(UserError, match="does not know these classes of the data: b"):
        match("multilabel", ["a", "b"], ["a"], tensor([1.0, 0.0]))
    with pytest.raises(UserError, match="no image of the data has a label of task"):
        match("classification", ["sky"], ["cat"], 0, sky=None)
    with pytest.raises(UserError, match="the data has labels of task, and the run has other"):
        match_classes(Source({"task": TaskInfo("classification", [])}, []), {"other": TaskInfo("regression", [])}, {})


@pytest.mark.parametrize("head", mostly_slow(["detection", "instances", "segmentation"], "segmentation"))
def test_all_samples_of_the_own_data_of_a_run(
    head: str, trained_on: Callable[[str], RunDirectory], command: Command, tmp_path: Path
) -> None:
    run = trained_on(head)
    assert command("evaluate", f"run={run.path}", "split=all", f"output={tmp_path / head}").code == 0
    metrics = json.loads((tmp_path / head / "metrics.json").read_text())
    assert all(name.startswith("all/") for name in metrics) and f"all/{head}/loss" in metrics
    assert len(rows(tmp_path / head / "predictions.csv")) == len(rows(run.splits))


def test_a_report_is_made_again(trained: Outcome, command: Command, tmp_path: Path) -> None:
    run = RunDirectory(shutil.copytree(trained.run.path, tmp_path / "run"))
    before = {path.name: path.read_bytes() for path in (run.metrics, run.predictions)}
    shutil.rmtree(run.report)
    run.metrics.unlink()
    run.predictions.write_text("half a li")
    status = run.status.read_bytes()
    outcome = command("evaluate", f"run={run.path}", "report=true")
    assert outcome.code == 0, outcome.err
    assert {path.name: path.read_bytes() for path in (run.metrics, run.predictions)} == before
    page = (trained.run.report / "index.html").read_text()
    assert (run.report / "index.html").read_text() == page.replace(trained.run.path.name, "run").replace(
        trained.run.path.parent.name, tmp_path.name
    )
    assert run.status.read_bytes() == status
    names = {"index.html", "curves.png", "test_classification_confusion_matrix.png", "test_classification_worst.png"}
    assert {path.name for path in run.report.iterdir()} == names
    assert Image.open(run.report / "curves.png").size[0] > 100
    assert "write output=DIR" in command("evaluate", f"run={run.path}", "report=true", "split=all").message
    other = tmp_path / "other"
    assert command("evaluate", f"run={run.path}", "report=true", "split=all", f"output={other}").code == 0
    assert (other / "report" / "all_classification_worst.png").is_file() and run.metrics.read_bytes() == before[
        "metrics.json"
    ]
