"""`data=python`: a Dataset of a team's own."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from own_datasets import Rectangles
from running import Command

from visiontune.data import VisionData
from visiontune.data.targets import LabelMap
from visiontune.errors import UserError

Make = Callable[..., VisionData]


@pytest.fixture
def own(make: Make) -> Make:
    def run(*overrides: str, name: str = "Rectangles", **arguments: object) -> VisionData:
        given = [f"+data.dataset.{key}={value}" for key, value in arguments.items()]
        return make(
            "data=python", f"data.dataset._target_=own_datasets.{name}", *given, "data.image_size=16", *overrides
        )

    return run


@pytest.mark.parametrize("form", ["pil", "tensor", "numpy"])
def test_images_in_every_form_are_loaded_when_they_are_needed(own: Make, form: str) -> None:
    data = own(form=form)
    assert data.schema["classification"].classes == ["red", "green", "blue"]
    samples = {sample.path: sample for split in ("train", "val", "test") for sample in data.samples(split)}
    assert sorted(samples) == [f"Rectangles/{i:06d}" for i in range(12)]
    assert all(samples[f"Rectangles/{i:06d}"].targets == {"classification": i % 3} for i in range(12))
    dataset = data.dataset("train", augmented=False)
    pixels = Rectangles(form="tensor")[int(dataset.samples[0].path[-6:])][0]
    assert not isinstance(dataset.samples[0].image, torch.Tensor)
    assert torch.equal(dataset.original_image(0), pixels)
    assert dataset[0]["image"].shape == (3, 16, 16) and dataset[0]["size"] == (20, 24)
    assert own("data.channels=1", form=form).dataset("train", augmented=False).original_image(0).shape == (1, 20, 24)


def test_grey_images_with_more_than_8_bits(own: Make) -> None:
    (note,) = own(name="Deep").notes
    assert note.startswith("12 images are grey with more than 8 bits, with values from 0 to 139; 0 and 65535 become")
    data = own("data.grey_range=[0,139]", name="Deep")
    assert "data.grey_range=[0,139] become black and white" in data.notes[0]
    assert data.dataset("train", augmented=False).original_image(0).max() == 255


def test_splits_do_not_depend_on_the_order_of_the_items(own: Make) -> None:
    def contents(data: VisionData) -> list[set[str]]:
        return [{sample.content for sample in data.samples(split)} for split in ("train", "val", "test")]

    assert contents(own(count=40)) == contents(own(count=40, order=1))
    assert contents(own(count=40)) == contents(own(count=40, form="numpy"))


def test_groups_never_straddle_two_splits(own: Make) -> None:
    data = own(name="Grouped", count=40)
    groups = [{sample.group for sample in data.samples(split)} for split in ("train", "val", "test")]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 10


TARGETS = ["multilabel", "regression", "segmentation", "detection", "instances"]


@pytest.mark.parametrize("task", TARGETS)
def test_targets_of_every_kind(own: Make, task: str) -> None:
    classes = "data.classes=[a,b]" if task == "regression" else "data.classes=null"
    classes = "data.classes=[none,red,green,blue]" if task == "segmentation" else classes
    data = own(f"data.task={task}", classes, task=task)
    dataset = data.dataset("train", augmented=False)
    number = int(dataset.samples[0].path[-6:])
    target = dataset[0]["truth"][task]
    x, y, label = 2 + number % 5, 3 + number % 4, number % 3
    if task == "multilabel":
        assert target.tolist() == [float(label == i) for i in range(3)]
    elif task == "regression":
        assert target.tolist() == pytest.approx([label, number / 10])
    elif task == "segmentation":
        assert isinstance(target, LabelMap) and target[y, x] == label + 1 and int((target > 0).sum()) == 99
        assert dataset.samples[0].targets[task].labels == [0, label + 1]
    else:
        assert target["boxes"].tolist() == [[x, y, x + 11, y + 9]] and target["labels"].tolist() == [label]
        assert ("masks" in target) == (task == "instances")
    assert "labels" in data.splits_rows()[0] and data.counts()["train"][task] is not None


def test_several_tasks_and_names_of_ones_own(own: Make) -> None:
    data = own("data.task=[classification,detection]", task="classification+detection")
    assert {task: (info.kind, info.classes) for task, info in data.schema.items()} == {
        "classification": ("classification", ["red", "green", "blue"]),
        "detection": ("detection", ["red", "green", "blue"]),
    }
    guessed = own(name="NoNames")
    assert guessed.schema["classification"].classes == ["0", "1", "2"]
    assert any("no class names: they are 0 to 2" in note for note in guessed.notes)


def test_one_dataset_a_split(make: Make) -> None:
    parts = ", ".join(
        f"{split}: {{_target_: own_datasets.Rectangles, count: {count}}}" for split, count in (("train", 9), ("val", 3))
    )
    data = make("data=python", f"data.dataset={{{parts}}}", "data.image_size=16")
    assert [len(data.samples(split)) for split in ("train", "val", "test")] == [9, 3, 0]
    assert data.samples("val")[0].path == "val/000000"


@pytest.mark.parametrize(
    ("item", "task", "message"),
    [
        ("missing", "classification", r"data\.dataset\[5\] raises FileNotFoundError: 5\.jpg"),
        ("bare", "classification", r"data\.dataset\[5\]: expected \(image, target\), got Image"),
        ("float", "classification", r"\[5\]: image: expected a PIL image, .* got torch\.float32 of shape \(3, 4, 4\)"),
        ("text", "classification", r"\[5\]: classification target: expected an int such as 3, got str 'cat'"),
        ("label", "classification", r"the label 3, but there are 3 classes \(red, green, blue\)"),
        ("vector", "multilabel", r"multilabel target: 1 values, but there are 3 classes"),
        ("box", "detection", r"within the image of 24x20 pixels, got \[0\.0, 0\.0, 30\.0, 5\.0\] as box 0"),
        ("words", "detection", r"data\.dataset\[5\]: detection target: could not convert string to float"),
        ("crowd", "detection", r"data\.dataset\[5\]: detection target: "),
        ("map", "segmentation", r"expected integers of the image's shape \(20, 24\), got ndarray of shape \(5, 5\)"),
    ],
)
def test_a_wrong_item_is_named(own: Make, item: str, task: str, message: str) -> None:
    classes = "data.classes=[a,b,c,d]" if task == "segmentation" else "data.classes=null"
    with pytest.raises(UserError, match=message):
        own(f"data.task={task}", classes, name="Broken", item=item, task=task)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("null", r"data\.dataset=None: expected a _target_: write data\.dataset\._target_=birds\.Birds"),
        ("own_datasets.Missing", r"_target_=own_datasets\.Missing: own_datasets has no Missing"),
        ("visiontune.compare.main", r"expected a class with __len__ and __getitem__"),
        ("own_datasets.Broken", r"own_datasets\.Broken raises TypeError"),
        ("own_datasets.Unbuildable", r"own_datasets\.Unbuildable raises AssertionError"),
        ("own_datasets.Random", r"data\.dataset\[0\] returns a different image each time"),
    ],
)
def test_a_wrong_dataset_is_refused(make: Make, target: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make("data=python", f"data.dataset._target_={target}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.task=colour", r"data\.task: unknown kind of target 'colour'"),
        ("data.task=null", r"data\.task: unknown kind of target 'None': write data\.task=KIND, one of classification"),
        ("data.task=[]", r"data\.task is empty: write e\.g\. data\.task=classification"),
        ("data.dataset=birds.Birds", r"data\.dataset=birds\.Birds: expected a _target_: write data\.dataset\._target"),
        ("data.datamodule=birds.Module", r"write the path of a class, data\.datamodule\._target_=birds\.Module"),
    ],
)
def test_wrong_keys_are_refused(own: Make, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        own(override)


def test_a_run_trains_evaluates_and_resumes_with_trust(
    command: Command, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module is found in the current directory."""
    (tmp_path / "mine.py").write_text("from own_datasets import Rectangles\n\n\nclass Birds(Rectangles):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    keys = ["data=python", "data.dataset._target_=mine.Birds", "+data.dataset.count=60", "data.batch_size=8"]
    run = command("train", *small, *keys, "epochs=2", "augment=none", "logger=none", "probe=false", "test=true").run
    with run.splits.open(newline="") as file:
        assert len({row["path"] for row in csv.DictReader(file)}) == 60
    assert "trust=true" in command("evaluate", f"run={run.path}").message
    metrics = json.loads(run.metrics.read_text())
    assert command("evaluate", f"run={run.path}", "trust=true", "output=again").code == 0
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again["test/classification/loss"] == pytest.approx(metrics["test/classification/loss"], abs=1e-6)
    resumed = command("train", f"run={run.path}", "trust=true", "epochs=3").run
    with resumed.history.open(newline="") as file:
        assert resumed.path == run.path and list(csv.DictReader(file))[-1]["epoch"] == "3"
