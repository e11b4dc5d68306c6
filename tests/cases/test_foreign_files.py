"""The files of a run from elsewhere: bounded in size, of the right types, and read without running code."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from omegaconf import OmegaConf
from running import Command, mostly_slow

from visiontune.data.recorded import read_rows
from visiontune.deployment.files import open_exported
from visiontune.errors import UserError, visible
from visiontune.models.backbones.sources import read_file
from visiontune.runs import RunDirectory
from visiontune.runs.log import log, logging_to
from visiontune.runs.reading import read_json, read_yaml
from visiontune.training.load import read_checkpoint

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcde", "bcdef", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, r"line 2: the YAML alias \*a"),
        ("a: &a [*a]", r"line 1: the YAML alias \*a"),
        ("[" * 5000, "cannot be read as a config|more than"),
        ("a: " + "[" * 60 + "]" * 60, "or 50 levels"),
        ("a: [" + "0," * 210_000 + "]", "more than 200,000 values"),
        ("a: " + "x" * 2**21, r"2,097,155 bytes: expected at most 2,097,152"),
        ("a: !!python/object/apply:os.system [x]", "cannot be read as a config"),
        ("a: 1" + ":00" * 100_000, "line 1: a number of more than 200 digits"),
        ("b: 1\nseed: 0x" + "f" * 5000, "line 2: a number of more than 200 digits"),
        ("a: x\nb: [" + "'${a}'," * 101 + "]", "more than 100 references"),
        ("a: ${b}\nb: ${a}", "cannot be read as a config"),
        ("a: ${nothing}", "cannot be read as a config"),
        ("a: ${oc.env:HOME}", "is not a plain reference"),
        ("a: x${b}\nb: 1", "is not a plain reference"),
        ("a: ${${b}}\nb: c\nc: 1", "is not a plain reference"),
        ("a: [{x: '${now:%Y}'}]", r"a.0.x=\$\{now:%Y\} is not a plain reference"),
        ("a: {x: '${b}', y: '${b}'}\nb: {x: 1}", "refers to a group"),
        ("- a", "expected a mapping"),
        ("\x00", "cannot be read as a config"),
    ],
)
def test_configs_are_bounded(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(file)


def test_plain_references_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: {b: 3, c: '${.b}'}\nd: ['${a.c}']\n1: null\n")
    assert read_yaml(tmp_path / "config.yaml") == {"a": {"b": 3, "c": 3}, "d": [3], 1: None}


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", "9" * 5000, "\ud800".encode("utf-8", "surrogatepass")])
def test_json_is_bounded(text: str | bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"a.json"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("status.json", [], "expected a JSON object, got list"),
        ("status.json", {}, "status: Field required"),
        ("status.json", {"status": 3}, "status: Input should be a valid string"),
        ("status.json", {"status": "finished", "objective": "x"}, "objective: Input should be"),
        ("status.json", {"status": "finished", "started": []}, "started: Input should be a valid number"),
        ("status.json", {"status": "x" * 301}, "status: String should have at most 300 characters"),
        ("status.json", {"status": "finished", "peak_memory_mb": {}}, "peak_memory_mb: Input should be a valid number"),
        ("metrics.json", {"test/classification/accuracy": {}}, "expected a number for test/classification/accuracy"),
        ("metrics.json", {"test/classification/accuracy": 10**400}, "expected a number for test/classification/accu"),
        ("environment.json", {"overrides": [1]}, "expected overrides as a list of texts"),
    ],
)
def test_records_of_wrong_types(name: str, content: Any, message: str, copy: RunDirectory, command: Command) -> None:
    (copy.path / name).write_text(json.dumps(content))
    assert message in command("compare", copy.path).message


@pytest.mark.parametrize("text", ["path,split\na,train\n", "x\n1\n", "path,split,content\na\n", "\x00"])
def test_splits_of_another_form(text: str, tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text(text)
    if text == "\x00":
        assert read_rows(tmp_path / "splits.csv") == []
        return
    with pytest.raises(UserError, match="line 2: expected the columns path, split and content"):
        read_rows(tmp_path / "splits.csv")


def test_paths_in_splits_are_only_compared(copy: RunDirectory, command: Command) -> None:
    copy.splits.write_text("path,split,content\n../../etc/passwd,val,x\n/etc/passwd,val,x\n")
    message = command("evaluate", f"run={copy.path}", "split=val").message
    assert message.startswith("2 images of this run cannot be found or read") and message.endswith(
        ": ../../etc/passwd, /etc/passwd"
    )


def test_checkpoints_cannot_claim_more_than_they_hold(run: RunDirectory, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(run.checkpoint("best")) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("archive/data/zeros", bytes(2**24))
    wide = torch.zeros(1).expand(10**6, 10**6)
    torch.save({"visiontune": {}, "state_dict": {"a": wide}}, tmp_path / "wide.ckpt")
    for name, message in (("bomb", "or is compressed"), ("wide", r"\(1000000, 1000000\) without the values")):
        with pytest.raises(UserError, match=message):
            read_checkpoint(tmp_path / f"{name}.ckpt")
        with pytest.raises(UserError, match=message):
            read_file(tmp_path / f"{name}.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["visiontune"].pop("tasks"), "does not name its tasks and classes"),
        (lambda state: state["visiontune"].update(tasks={"classification": ["a"]}), "does not name its tasks"),
        (lambda state: state["visiontune"].update(tasks={"x": {"kind": "k", "classes": []}}), "has the head classif"),
        (lambda state: state["state_dict"].popitem(), "does not fit what"),
        (lambda state: state.update(visiontune=3), "is not a checkpoint of this project"),
    ],
)
def test_checkpoints_of_another_form(
    change: Callable[[dict[str, Any]], Any], message: str, copy: RunDirectory, command: Command, tiles: Path
) -> None:
    state = torch.load(copy.checkpoint("best"), weights_only=True)
    change(state)
    torch.save(state, copy.checkpoint("best"))
    assert message in command("predict", f"run={copy.path}", f"input={tiles}").message


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (b"c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85R", "holds bytes or a bytearray"),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R", "holds bytes or a bytearray"),
        (b"ctorch\nFloatTensor\n\x8a\x04\x00\x00\x00\x10\x85R", "claims to hold tensors of 1,073,"),
    ],
)
def test_checkpoints_make_nothing_large_from_a_few_bytes(
    call: bytes, message: str, run: RunDirectory, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(run.checkpoint("best")) as source, zipfile.ZipFile(bomb, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):  # one more entry before the last opcode
                content = content[:-1] + b"X\x01\x00\x00\x00z" + call + b"s."
            target.writestr(name, content)
    with pytest.raises(UserError, match=message):
        read_checkpoint(bomb)


@pytest.mark.parametrize("verb", mostly_slow(["evaluate", "export", "compress"], "evaluate"))
@pytest.mark.parametrize("name", ["splits.csv", "metrics.csv"])
def test_a_pipe_or_an_endless_file(name: str, verb: str, copy: RunDirectory, command: Command) -> None:
    file = copy.path / name
    file.unlink()
    os.mkfifo(file)
    more = {"export": ["format=onnx"], "compress": ["recipe=int8"]}.get(verb, [])
    assert command(verb, f"run={copy.path}", *more).message.startswith(f"{file} is not a file: delete it")
    file.unlink()
    with file.open("wb") as stream:
        stream.truncate(2**30)
    message = command(verb, f"run={copy.path}", *more).message
    assert message == f"{file} has 1,073,741,824 bytes: expected at most 536,870,912"


def test_no_control_characters_reach_the_terminal(
    copy: RunDirectory, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    status = json.loads(copy.status.read_text())
    copy.status.write_text(json.dumps(status | {"status": "\x1b[2Jgone"}))
    outcome = command("export", f"run={copy.path}", "format=onnx")
    assert outcome.message.startswith(f"{copy.path} is \\x1b[2Jgone: ")
    with logging_to(copy.path / "other.log"):
        log.info("class \x1b]0;title\x07\tone\nline")
    assert capsys.readouterr().out == "class \\x1b]0;title\\x07\tone\nline\n"
    assert "\x1b" not in (copy.path / "other.log").read_text()
    assert visible("x" * 50_000, 1000).count("x") == 1000


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.image_size", 100_000, "expected a number of pixels up to 16384"),
        ("data.num_workers", 5000, "expected a number of data-loader workers from 0 to 1024"),
        ("trainer.max_epochs", 10**9, "expected a whole number from 1 to 1000000"),
        ("backbone.widths", [2**20, 2**20], "builds needs more memory than this machine has"),
        ("backbone.shapes", {"stages": "axb"}, "backbone.shapes has stages: axb: expected a shape such as 24x3x3x3"),
        ("backbone.shapes", "x", "backbone.shapes=x: expected a mapping"),
    ],
)
def test_what_a_config_can_ask_for_is_bounded(
    key: str, value: Any, message: str, copy: RunDirectory, command: Command, tiles: Path
) -> None:
    cfg = copy.read_config()
    OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    copy.write_config(cfg)
    assert message in command("predict", f"run={copy.path}", f"input={tiles}").message


@pytest.mark.parametrize("name", mostly_slow(["loops", "callbacks", "VisionData"], "loops"))
def test_a_resumed_checkpoint_of_another_form(name: str, copy: RunDirectory, command: Command) -> None:
    state = torch.load(copy.checkpoint("last"), weights_only=True)
    torch.save(state | {name: 3}, copy.checkpoint("last"))
    message = command("train", f"run={copy.path}", "epochs=9").message
    assert message.startswith(f"{copy.checkpoint('last')} is not a checkpoint that train wrote")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("[]", "its metadata has no tasks"),
        ('{"plain": {"classification": 3}}', "its metadata has no tasks"),
        ('{"plain": {}, "checkpoint": "DIGEST"}', "the exported file has no task classification"),
    ],
)
def test_an_onnx_file_with_other_metadata(
    metadata: str, message: str, copy: RunDirectory, command: Command, tiles: Path
) -> None:
    image, output = onnx.helper.make_tensor_value_info("image", 1, [2]), onnx.helper.make_tensor_value_info("y", 1, [2])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["image"], ["y"])], "g", [image], [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.helper.set_model_props(model, {"visiontune": metadata.replace("DIGEST", copy.digest())})
    copy.exports.mkdir()
    (copy.exports / "model.onnx").write_bytes(model.SerializeToString())
    assert message in command("predict", f"run={copy.path}", f"input={tiles}", "backend=onnx").message


@pytest.mark.parametrize("location", ["../secret.bin", "ABSOLUTE", "link.bin"])
def test_an_onnx_file_reads_nothing_outside_its_folder(location: str, tmp_path: Path) -> None:
    run, secret = RunDirectory(tmp_path / "run"), tmp_path / "secret.bin"
    run.exports.mkdir(parents=True)
    secret.write_bytes(bytes(16))
    (run.exports / "link.bin").symlink_to(secret)
    weights = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=str(secret) if location == "ABSOLUTE" else location)
    output = onnx.helper.make_tensor_value_info("y", 1, [4])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [], [output], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    (run.exports / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"model.onnx is not a file of visiontune export .*xternal data path"):
        open_exported(run, "onnx")
