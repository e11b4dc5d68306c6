"""Text as people and tools write it: encodings, YAML without types, missing cells, numbers and ids."""

from pathlib import Path
from typing import Any

import pytest

from visiontune.data.text import is_missing, normalized, read_text, read_yaml, to_id, to_number
from visiontune.errors import UserError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_read_without_a_note(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes("Vögel, 鳥\r\nzwei\rdrei\n".encode(encoding))
    assert read_text(file) == ("Vögel, 鳥\nzwei\ndrei\n", None)


def test_other_encodings_are_read_as_windows_1252_with_a_note(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes("Vögel - 5 €\n".encode("cp1252"))
    text, note = read_text(file)
    assert text == "Vögel - 5 €\n" and note is not None and note.startswith(f"{file} is not UTF-8: it is read as")


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0\0\0", b"\x81\x8d\x8f", b"\0" * 50, b"a\0b\0c", b"\xff\xfe\0"])
def test_a_file_that_is_no_text_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.txt").write_bytes(data)
    with pytest.raises(UserError, match=r"t\.txt: not a text file"):
        read_text(tmp_path / "t.txt")
    with pytest.raises(UserError, match=r"gone\.txt: cannot be read \(No such file"):
        read_text(tmp_path / "gone.txt")


def test_yaml_scalars_stay_text(tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    file.write_text("names: {0: off, 1: on, 2: no}\nyes: [2024-06-01, 1:30, 0x10, 1e3, null, ~, '', .5]\nnc: 3\n")
    assert read_yaml(file) == {
        "names": {"0": "off", "1": "on", "2": "no"},
        "yes": ["2024-06-01", "1:30", "0x10", "1e3", "null", "~", "", ".5"],
        "nc": "3",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", r"d\.yaml:2: broken YAML \("),
        ("names: {0: a, 0: b}", r"d\.yaml: broken YAML \(a key occurs twice in the mapping of line 1\)"),
        ("[" * 1000, r"d\.yaml: broken YAML \(nested too deeply\)"),
        ("a: !!python/object/apply:os.getcwd []\nb: \x01", r"d\.yaml: broken YAML \("),
        ("? [a]\n: b", r"d\.yaml:1: broken YAML \(found unhashable key\)"),
    ],
)
def test_broken_yaml_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(tmp_path / "d.yaml")


def test_missing_cells_are_those_of_pandas() -> None:
    missing = ["", " ", "nan", "NaN", "-NaN", "None", "null", "NULL", "NA", "N/A", "n/a", "<NA>", "#N/A", " NA "]
    assert [cell for cell in missing if not is_missing(cell)] == []
    assert not any(map(is_missing, ["none", "No", "0", "nano", "NAN", "cat", "-"]))


def test_names_are_composed() -> None:
    assert normalized("Cafe\u0301") == "Café" and normalized("cat") == "cat"


@pytest.mark.parametrize(("value", "number"), [(1, 1), (1.5, 1.5), ("2", 2), (" 2.5 ", 2.5), ("1e2", 100)])
def test_numbers(value: Any, number: float) -> None:
    assert to_number(value) == number


@pytest.mark.parametrize("value", [None, True, "", "x", "nan", float("inf"), 10**400, [1], {}])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(ValueError, match="is not a"):
        to_number(value)


@pytest.mark.parametrize(
    ("value", "identity"), [(1, 1), (1.0, 1), ("1", 1), (" 1 ", 1), ("-3", -3), ("0001", "0001"), ("a1", "a1"), (0, 0)]
)
def test_ids(value: Any, identity: int | str) -> None:
    assert to_id(value) == identity


@pytest.mark.parametrize("value", [None, True, 1.5, "", " ", float("nan"), float("inf"), [1], {"a": 1}])
def test_what_is_no_id(value: Any) -> None:
    with pytest.raises(ValueError, match="is not an id"):
        to_id(value)
