"""Tables as people and spreadsheets write them: missing values, encodings, decimal commas, ids, copies of rows."""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from inputs import write_image
from running import Outcome

from visiontune.data.readers.csv_table import read
from visiontune.data.schema import Source
from visiontune.errors import UserError

NFD, NFC = (unicodedata.normalize(form, "Café") for form in ("NFD", "NFC"))
KINDS = ("cat", "dog", "cat", "nan", "dog", "None")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """12 images in the folder `images`."""
    for i in range(12):
        write_image(tmp_path / f"set/images/{i}.png")
    return tmp_path / "set"


def write(root: Path, rows: Sequence[str], header: str = "path,kind", encoding: str = "utf-8", end: str = "\n") -> None:
    (root / "t.csv").write_bytes((end.join([header, *rows]) + end).encode(encoding))


def rows(kinds: Sequence[str] = ("cat", "dog"), delimiter: str = ",") -> list[str]:
    return [f"images/{i}.png{delimiter}{kinds[i % len(kinds)]}" for i in range(12)]


def labels(source: Source) -> dict[str, str | None]:
    """File name -> class; None for an image without label."""
    names = source.schema["classification"].classes
    targets = {Path(sample.path).name: sample.targets["classification"] for sample in source.samples}
    return {name: None if target is None else names[target] for name, target in targets.items()}


EXPECTED: dict[str, str | None] = {f"{i}.png": ("cat", "dog")[i % 2] for i in range(12)}


def refused(root: Path, **arguments: object) -> str:
    with pytest.raises(UserError) as error:
        read(root, "t.csv", **{"label": "kind", **arguments})  # type: ignore[arg-type]
    return str(error.value)


def test_missing_values_are_no_classes(root: Path) -> None:
    write(root, rows(KINDS))
    source = read(root, "t.csv", label="kind")
    assert source.schema["classification"].classes == ["cat", "dog"]
    assert list(labels(source).values()).count(None) == 4
    assert source.notes == [
        "4 cells of kind are missing values: None, nan; list them in data.classes if they are classes"
    ]


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NA", "N/A", "n/a", "null", "NULL", "#N/A", "<NA>", ""])
def test_every_word_for_a_missing_value(root: Path, word: str) -> None:
    write(root, rows(("cat", "dog", word)))
    source = read(root, "t.csv", label="kind")
    assert [name for name, label in labels(source).items() if label is None] == ["11.png", "2.png", "5.png", "8.png"]


def test_classes_may_be_called_nan_and_none(root: Path) -> None:
    write(root, rows(KINDS))
    source = read(root, "t.csv", label="kind", classes=["None", "cat", "nan", "dog"])
    assert list(labels(source).values()).count("nan") == 2 and None not in labels(source).values()
    assert source.notes == []


def test_missing_numbers_splits_and_groups(root: Path) -> None:
    lines = [
        f"images/{i}.png,{'NaN' if i < 3 else i},{'nan' if i == 4 else 'train'},{'NA' if i == 5 else 'g'}"
        for i in range(12)
    ]
    write(root, lines, "path,size,split,group")
    source = read(root, "t.csv", targets=["size"])
    samples = {Path(sample.path).stem: sample for sample in source.samples}
    assert [samples[str(i)].targets["regression"] is None for i in range(4)] == [True, True, True, False]
    assert samples["4"].split is None and samples["5"].group is None and samples["6"].group == "g"
    assert source.notes == ["5 cells of size, split, group are missing values: NA, NaN, nan"]


@pytest.mark.parametrize(
    ("encoding", "delimiter", "first", "end", "note"),
    [
        ("utf-16", "\t", "", "\r\n", "t.csv: cells are separated by tabs"),
        ("utf-8-sig", ";", "", "\r\n", "t.csv: cells are separated by semicolons"),
        ("utf-8", ";", "sep=;\r\n", "\r\n", None),
        ("utf-8", "|", '"sep=|"\n', "\n", None),
        ("utf-8", "\t", "sep=\t\n", "\n", None),
        ("utf-8", ",", "", "\r", None),
        ("cp1252", ",", "", "\n", "is not UTF-8: it is read as Windows-1252"),
    ],
)
def test_encodings_and_delimiters(
    root: Path, encoding: str, delimiter: str, first: str, end: str, note: str | None
) -> None:
    write(root, rows(("Käfer", "Möwe"), delimiter), f"{first}path{delimiter}kind", encoding, end)
    source = read(root, "t.csv", label="kind")
    assert source.schema["classification"].classes == ["Käfer", "Möwe"] and len(source.samples) == 12
    assert [note in text for text in source.notes] == [True] if note else source.notes == []


def test_lines_are_counted_as_in_an_editor(root: Path) -> None:
    write(root, [*rows(delimiter=";")[:3], "", "images/none.png;cat"], "sep=;\npath;kind")
    assert "t.csv:7: images/none.png" in refused(root)
    write(root, ['images/0.png,"a\ncat"', 'images/1.png,"dog\n\n"', "images/none.png,cat"])
    assert "t.csv:7: images/none.png" in refused(root)


def test_line_breaks_and_delimiters_in_cells(root: Path) -> None:
    lines = [f'images/{i}.png,"first\nsecond, third","{kind}"' for i, kind in enumerate(["cat", "dog"] * 6)]
    write(root, lines, 'path,"the; note",kind')
    assert labels(read(root, "t.csv", label="kind")) == EXPECTED


def test_blank_columns_at_the_end(root: Path) -> None:
    for header, end in (("path,kind,,", ",,"), ("path,kind", ",,"), ("path,kind,,", "")):
        write(root, [line + end for line in rows()], header)
        assert labels(read(root, "t.csv", label="kind")) == EXPECTED
    write(root, [*rows()[:-1], "images/11.png,dog,cat"])
    assert refused(root).startswith("t.csv:13: 3 cells, expected 2. Put quotes around cells that contain ','")


def test_only_columns_in_use_must_be_unique(root: Path) -> None:
    write(root, [f"{line},x,y" for line in rows()], "path,kind,note,note")
    assert labels(read(root, "t.csv", label="kind")) == EXPECTED


@pytest.mark.parametrize(
    ("delimiter", "numbers", "values"),
    [
        (";", ["1,5", "2", "0,25"], [1.5, 2.0, 0.25]),
        (";", ["1,250", "0,5", "3"], [1.25, 0.5, 3.0]),
        ("\t", ["-1,5", "1,5e2", ""], [-1.5, 150.0, None]),
        (";", ["1.5", "2", "3"], [1.5, 2.0, 3.0]),
    ],
)
def test_decimal_commas(root: Path, delimiter: str, numbers: list[str], values: list[float | None]) -> None:
    write(root, [f"images/{i}.png{delimiter}{number}" for i, number in enumerate(numbers)], f"path{delimiter}size")
    source = read(root, "t.csv", targets=["size"])
    targets = [sample.targets["regression"] for sample in source.samples]
    assert [None if target is None else target.item() for target in targets] == values
    assert any("have a decimal comma" in note for note in source.notes) == any("," in number for number in numbers)


@pytest.mark.parametrize(
    ("delimiter", "number", "other", "message"),
    [
        (";", "1,500", "2,000", "is its comma a decimal point, or does it separate thousands? Write 1.500 or 1500"),
        (";", "1,5", "1.5", "size '1,5' is not a number"),
        (";", "1,234,567", "0,5", "size '1,234,567' is not a number"),
        (",", '"1,5"', "2", "size '1,5' is not a number"),
        (",", "1_000", "2", "size '1_000' is not a number"),
    ],
)
def test_commas_that_may_mean_two_things(root: Path, delimiter: str, number: str, other: str, message: str) -> None:
    lines = [f"images/0.png{delimiter}{number}", f"images/1.png{delimiter}{other}"]
    write(root, lines, f"path{delimiter}size")
    text = refused(root, label=None, targets=["size"])
    assert text.startswith("t.csv:2: size ") and message in text


def test_ids_without_extension_in_another_column(root: Path) -> None:
    write(root, [f"{i},{('cat', 'dog')[i % 2]}" for i in range(12)], "image_id,kind")
    source = read(root, "t.csv", label="kind", path="image_id")
    assert labels(source) == EXPECTED and source.samples[0].path == "images/0.png"
    names = "0 is images/0.png, 1 is images/1.png, 2 is images/2.png, ..."
    assert source.notes == [f"12 names in t.csv have no extension: {names}"]
    assert "has no column 'path'; it has image_id, kind. Write data.path=COLUMN" in refused(root)
    write_image(root / "more/3.jpg")
    message = refused(root, path="image_id")
    assert message == "t.csv:5: '3': 2 images have this name: images/3.png, more/3.jpg. Write the path."


def test_absolute_paths_and_backslashes(root: Path, tmp_path: Path) -> None:
    for prefix, images in (
        (f"{root}/images/", "."),
        (f"{root}/images/", "images"),
        ("images\\", "."),
        (".\\", "images"),
    ):
        write(root, [f"{prefix}{i}.png,{('cat', 'dog')[i % 2]}" for i in range(12)])
        source = read(root, "t.csv", images, label="kind")
        assert labels(source) == EXPECTED and source.notes == []
    other = write_image(tmp_path / "elsewhere/a.png")
    write(root, [*rows(), f"{other},cat"])
    source = read(root, "t.csv", label="kind")
    assert len(source.samples) == 13 and source.notes == [f"1 image of t.csv is outside data.root: {other}"]


@pytest.mark.parametrize("prefix", ["C:\\Users\\me\\data\\", "/home/nobody/data/", "https://host/data/"])
def test_paths_of_another_machine(root: Path, prefix: str) -> None:
    write(root, [f"{prefix}images\\{i}.png,{('cat', 'dog')[i % 2]}" for i in range(12)])
    source = read(root, "t.csv", label="kind")
    assert labels(source) == EXPECTED
    begin = prefix.replace("\\", "/")
    names = ", ".join(f"{begin}images/{i}.png is images/{i}.png" for i in range(3))
    assert source.notes == [f"12 images have another path than in t.csv: {names}, ..."]
    write(root, [*rows(), f"{prefix}images/0.png,cat", f"{prefix}images/12.png,cat"])
    assert "1 of 14 images do not exist" in refused(root)
    write(root, [*rows(), "/other/images/1.png,cat"])
    assert refused(root) == "t.csv:14: images/1.png is already in line 3. An image has one row."


def test_copies_of_a_row(root: Path) -> None:
    write(root, [*rows(), "images/3.png,dog", "images\\4.png,cat"])
    source = read(root, "t.csv", label="kind")
    assert labels(source) == EXPECTED and source.notes == ["2 rows of t.csv repeat an earlier row"]
    write(root, [*rows(), "images/3.png,cat"])
    assert refused(root) == "t.csv:14: images/3.png is already in line 5. An image has one row."


def test_unicode_forms_of_paths_columns_and_classes(root: Path) -> None:
    (root / "images/0.png").rename(root / f"images/{NFD}.png")
    write(root, [f"images/{NFC}.png,{NFC}", f"images/1.png,{NFD}", "images/2.png,dog"], f"path,{NFD}")
    source = read(root, "t.csv", label=NFC)
    assert source.schema["classification"].classes == [NFC, "dog"]
    assert labels(source) == {f"{NFD}.png": NFC, "1.png": NFC, "2.png": "dog"}
    assert [note[:40] for note in source.notes] == ["9 images that are not in t.csv are left "]


def test_lists_of_images_that_have_no_row(root: Path) -> None:
    write(root, rows()[:10])
    (root / "train.txt").write_text("0\n1\nimages/10.png\n11\n")
    message = refused(root, splits=".")
    assert message.startswith("2 images in the lists have no row in t.csv; add it, or remove these lines:\n")
    assert "train.txt:3: 'images/10.png'" in message and "train.txt:4: '11'" in message


@pytest.mark.parametrize("head", [b"PK\x03\x04", b"\xd0\xcf\x11\xe0"])
def test_workbooks(root: Path, head: bytes) -> None:
    (root / "t.csv").write_bytes(head + b"\0" * 100)
    assert "is a workbook. Save its sheet as CSV" in refused(root)


def test_the_plan_of_a_table(root: Path, plan: Callable[..., Outcome]) -> None:
    write(root, [f"{i},{KINDS[i % 6]}" for i in range(12)], "image_id,kind")
    keys = ["data=csv", f"data.root={root}", "data.table=t.csv", "data.path=image_id", "data.label=kind"]
    out = plan(*keys, "data.split_ratio={train: 0.5, val: 0.5, test: 0}").out
    assert "data: classification, 2 classes" in out and "4 of 12 images have no label" in out
    assert out.count("4 cells of kind are missing values: None, nan") == 1
    assert out.count("12 names in t.csv have no extension") == 1
