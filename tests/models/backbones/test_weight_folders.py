"""Weights in a folder: one file, or the shards of an index; what is missing, damaged or ambiguous is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from visiontune.errors import UserError
from visiontune.models.backbones import build
from visiontune.models.backbones.sources import read_tensors
from visiontune.models.backbones.weight_folders import sha256

KEY = "pretrained.weights"
INDEX = "model.safetensors.index.json"
FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
STATE = {name: torch.full((2,), float(number)) for number, name in enumerate("abc")}


def write_shards(folder: Path) -> dict[str, str]:
    """Two shards and their index; returns its mapping of tensors to files."""
    save_file({name: STATE[name] for name in "ab"}, folder / FIRST)
    save_file({"c": STATE["c"]}, folder / SECOND)
    return write_index(folder, {"a": FIRST, "b": FIRST, "c": SECOND})


def write_index(folder: Path, weight_map: Any) -> Any:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": weight_map}))
    return weight_map


def read_values(folder: Path) -> dict[str, float]:
    return {name: value[0].item() for name, value in read_tensors(folder, KEY).items()}


def test_a_folder_is_read_as_its_file_or_its_shards(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "model.pth")
    (tmp_path / "config.json").write_text("{}")
    assert read_values(tmp_path) == {"a": 0, "b": 1, "c": 2}
    save_file({name: value + 10 for name, value in STATE.items()}, tmp_path / "model.safetensors")
    (tmp_path / "._model.safetensors").write_bytes(b"of another system")
    assert read_values(tmp_path) == {"a": 10, "b": 11, "c": 12}  # safetensors before pickles
    (tmp_path / "model.safetensors").unlink()
    write_shards(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    shard = (tmp_path / SECOND).rename(tmp_path / "elsewhere" / "blob")
    (tmp_path / SECOND).symlink_to(shard)  # as in Hugging Face's cache
    assert read_values(tmp_path) == {"a": 0, "b": 1, "c": 2}


def test_a_backbone_of_a_folder(tmp_path: Path) -> None:
    source, _ = build("small_cnn", weights=None, widths=[4, 8], depth=1)
    save_file(source.model.state_dict(), tmp_path / "model.safetensors")
    backbone, report = build("small_cnn", weights=str(tmp_path), widths=[4, 8], depth=1)
    assert report.source == str(tmp_path) and report.matched_fraction == 1.0
    assert all(torch.equal(value, backbone.model.state_dict()[key]) for key, value in source.model.state_dict().items())


def save_sum(folder: Path, tensor: Tensor) -> None:
    """The file of a download, whose content has changed since then."""
    save_file({"a": tensor}, folder / "model.safetensors")
    (folder / "weights.json").write_text(json.dumps({"sha256": {"model.safetensors": "0" * 64}}))


def save_both(folder: Path) -> None:
    write_shards(folder)
    save_file(STATE, folder / "model.safetensors")


CASES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: None, "has no file of weights .* such as KEY=weights/mine.pth; for a run .* weights_from="),
    (lambda folder: [torch.save(STATE, folder / name) for name in ("a.bin", "b.pth")], "got a.bin, b.pth; .*/b.pth$"),
    (save_both, f"got model.safetensors, {INDEX};"),
    (lambda folder: (write_shards(folder), (folder / SECOND).unlink()), f"{SECOND} is missing, which {INDEX} names"),
    (lambda folder: (write_shards(folder), (folder / SECOND).write_bytes(b"x")), f"{SECOND}: not a readable"),
    (lambda folder: write_index(folder, {**write_shards(folder), "d": SECOND}), "not fit its index: d is only"),
    (lambda folder: write_index(folder, write_shards(folder) | {"b": SECOND}), f"{FIRST} does not fit its index: b is"),
    (
        lambda folder: write_index(folder, {"a": "../other.safetensors"}),
        r"a in '\.\./other.safetensors': expected a .safe",
    ),
    (
        lambda folder: write_index(folder, {"a": "/x.safetensors"}),
        "a in '/x.safetensors': expected .* of the same folder",
    ),
    (lambda folder: write_index(folder, {"a": "model.bin"}), "a in 'model.bin': expected"),
    (lambda folder: write_index(folder, {"a": 1}), "a in 1: expected"),
    (lambda folder: write_index(folder, [FIRST]), "is no index of shards: expected weight_map"),
    (lambda folder: (folder / INDEX).write_text("{"), f"{INDEX} cannot be read as JSON"),
    (
        lambda folder: save_sum(folder, STATE["a"]),
        "model.safetensors is damaged, since it has another checksum than in",
    ),
]


@pytest.mark.parametrize(("write", "words"), CASES)
def test_what_is_refused(write: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match=words.replace("KEY", KEY)) as error:
        read_tensors(tmp_path, KEY)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_the_checksum_of_a_download(tmp_path: Path) -> None:
    save_sum(tmp_path, STATE["b"])
    content = {"sha256": {"model.safetensors": sha256(tmp_path / "model.safetensors")}}
    (tmp_path / "weights.json").write_text(json.dumps(content))
    assert read_values(tmp_path) == {"a": 1}
