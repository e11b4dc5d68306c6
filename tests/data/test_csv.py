"""Tables: classes, presence and numbers from one file, and every cell that cannot be."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from miniatures import scenes, write_csv, write_lists

from visiontune.data import VisionData
from visiontune.data.readers.csv_table import read
from visiontune.data.schema import Source
from visiontune.errors import UserError

TASKS = {"label": "kind", "labels": ["brick", "tile"], "targets": ["count", "area"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "set")


def edit(root: Path, line: int, **cells: str) -> None:
    """Change cells of a line, counted from 1 with the header."""
    with (root / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[line - 2].update(cells)
    with (root / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def bad(root: Path, **arguments: object) -> str:
    with pytest.raises(UserError) as error:
        read(root, **{"table": "table.csv", **TASKS, **arguments})  # type: ignore[arg-type]
    return str(error.value)


def test_three_tasks_of_one_table(root: Path) -> None:
    source = read(root, "table.csv", **TASKS)  # type: ignore[arg-type]
    assert {task: (info.kind, info.classes) for task, info in source.schema.items()} == {
        "classification": ("classification", ["brick", "tile"]),
        "multilabel": ("multilabel", ["brick", "tile"]),
        "regression": ("regression", ["count", "area"]),
    }
    assert [sample.path for sample in source.samples] == [f"images/{scene.name}.jpg" for scene in scenes()]
    for sample, scene in zip(source.samples, scenes(), strict=True):
        names = [name for name, _ in scene.objects]
        assert (sample.split, sample.group) == (scene.split, f"g{int(scene.name[1:]) // 2}")
        assert sample.targets["classification"] == (["brick", "tile"].index(names[0]) if names else 0)
        assert sample.targets["multilabel"].tolist() == [float(name in names) for name in ("brick", "tile")]
        value = sample.targets["regression"]
        assert value.dtype == torch.float32 and value[0] == len(names)
        assert value[1] == pytest.approx(int((scene.labels > 0).sum()) / 100)
    assert source.notes == []


@pytest.mark.parametrize(("delimiter", "bom"), [(";", ""), ("\t", "\ufeff")])
def test_other_delimiters_and_a_byte_order_mark(root: Path, delimiter: str, bom: str) -> None:
    text = (root / "table.csv").read_text().replace(",", delimiter)
    (root / "other.txt").write_text(bom + text, encoding="utf-8")
    first = read(root, "table.csv", label="kind").samples
    assert read(root, "other.txt", label="kind").samples == first


def test_an_empty_cell_is_not_labelled(root: Path) -> None:
    edit(root, 3, kind="", area="")
    edit(root, 4, brick="", tile=" ")
    source = read(root, "table.csv", **TASKS)  # type: ignore[arg-type]
    second, third = source.samples[1].targets, source.samples[2].targets
    assert second["classification"] is None and second["regression"] is None
    assert second["multilabel"].tolist() == [1.0, 1.0]
    assert third["multilabel"] is None and third["regression"] is not None
    assert source.notes == ["1 rows have empty cells in count, area: they are not labelled for regression"]


def test_classes_sorted_or_given(root: Path) -> None:
    def classes(source: Source) -> tuple[list[str], Counter]:
        labels = Counter(sample.targets["classification"] for sample in source.samples)
        return source.schema["classification"].classes, labels

    assert classes(read(root, "table.csv", label="kind")) == (["brick", "tile"], Counter({0: 7, 1: 5}))
    given = read(root, "table.csv", label="kind", classes=["tile", "brick", "roof"])
    assert classes(given) == (["tile", "brick", "roof"], Counter({1: 7, 0: 5}))
    for i, year in enumerate((2, 10, 2, 10, 9, 10, 2, 10, 2, 2, 2, 2)):
        edit(root, i + 2, kind=str(year))
    assert read(root, "table.csv", label="kind").schema["classification"].classes == ["2", "9", "10"]


def test_split_names_and_rows_without_one(root: Path) -> None:
    edit(root, 10, split="Validation")
    edit(root, 11, split="valid")
    edit(root, 12, split="")
    assert [sample.split for sample in read(root, "table.csv", label="kind").samples][8:] == [
        "val",
        "val",
        None,
        "test",
    ]


def test_lists_take_the_place_of_the_column(root: Path) -> None:
    for i in range(12):
        edit(root, i + 2, split="test")
    write_lists(root / "splits")
    source = read(root, "table.csv", label="kind", splits="splits")
    assert Counter(sample.split for sample in source.samples) == {"train": 8, "val": 2, "test": 2}
    assert source.notes == ["data.splits=splits is used instead of the column split"]


def test_paths_relative_to_a_folder(root: Path) -> None:
    text = (root / "table.csv").read_text().replace("images/", "")
    (root / "table.csv").write_text(text)
    assert read(root, "table.csv", "images", label="kind").samples[0].path == "images/p00.jpg"


@pytest.mark.parametrize(
    ("line", "cells", "message"),
    [
        (
            5,
            {"area": "inf"},
            "table.csv:5: area 'inf' is not a number: correct it, or leave it empty if it is unknown",
        ),
        (5, {"area": "1e39"}, "table.csv:5: area '1e39' is not a number"),
        (5, {"count": "two"}, "table.csv:5: count 'two' is not a number"),
        (6, {"brick": "2"}, "table.csv:6: brick '2': write 0 or 1, or leave it empty if it is unknown"),
        (7, {"split": "dev"}, "table.csv:7: split 'dev': write train, val or test, or leave it empty"),
        (8, {"path": "images/p00.jpg"}, "table.csv:8: images/p00.jpg is already in line 2. An image has one row."),
        (8, {"path": "images/../images/p00.jpg"}, "table.csv:8: images/p00.jpg is already in line 2"),
        (8, {"path": " "}, "table.csv:8: the path is empty"),
        (
            9,
            {"path": "images/gone.jpg"},
            "1 of 12 images do not exist under {root}; is data.images correct?\n  table.csv:9: ",
        ),
    ],
)
def test_cells_that_cannot_be(root: Path, line: int, cells: dict[str, str], message: str) -> None:
    edit(root, line, **cells)
    assert bad(root).startswith(message.format(root=root))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": None}, "data.table is not set: write data.table=FILE"),
        ({"table": "none.csv"}, "data.table: the file {root}/none.csv does not exist"),
        (
            {"label": "species"},
            "data.label: table.csv has no column 'species'; it has path, split, group, kind, brick,",
        ),
        ({"labels": ["brick", "roof"]}, "data.labels: table.csv has no column 'roof'; it has path"),
        ({"targets": ["count", "count"]}, "data.targets=['count', 'count']: a column is named twice"),
        ({"classes": ["tile", "roof"]}, "table.csv:2: kind 'brick' is not in data.classes=['tile', 'roof']"),
        ({"label": None, "labels": None, "targets": None}, "table.csv: no task is configured: write data.label=COLUMN"),
        ({"images": "photos"}, "data.images: the folder {root}/photos does not exist"),
    ],
)
def test_keys_that_do_not_fit(root: Path, arguments: dict[str, object], message: str) -> None:
    assert bad(root, **arguments).startswith(message.format(root=root))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "data.table: {root}/t.csv is empty"),
        ("file,kind\na.jpg,cat\n", "data.table: t.csv has no column 'path'; it has file, kind"),
        ("path,kind\n", "t.csv has no rows"),
        ("path,kind,kind\na.jpg,cat,dog\n", "t.csv:1: two columns have the same name: path, kind, kind"),
        ("path,kind\nimages/p00.jpg\n", "t.csv:2: 1 cells, expected 2"),
        ('path,kind\n"images/p00.jpg,cat\n', "data.table: {root}/t.csv cannot be read (unexpected end of data)"),
        ("path,kind\nimages/p00.jpg,cat\n", "t.csv: column 'kind' has 1 classes, expected two or more"),
    ],
)
def test_tables_that_cannot_be(root: Path, text: str, message: str) -> None:
    (root / "t.csv").write_text(text)
    assert bad(root, table="t.csv", label="kind", labels=None, targets=None).startswith(message.format(root=root))


def test_nothing_is_labelled(root: Path) -> None:
    for line in range(2, 14):
        edit(root, line, area="")
    assert bad(root) == "table.csv: no row has values in all of count, area: no image is labelled for regression"


def test_from_the_config(root: Path, make: Callable[..., VisionData]) -> None:
    data = make("data=csv", f"data.root={root}", "data.table=table.csv", "data.label=kind", "data.targets=[area]")
    assert data.counts()["train"] == {"classification": {"brick": 4, "tile": 4}, "regression": {"area": 0}}
    assert len(data.samples("train")) == 8 and data.notes == []
    assert [target.shape for target in next(iter(data.val_dataloader()))["targets"]["regression"]] == [(1,), (1,)]
