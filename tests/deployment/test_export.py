"""A file that gives what the run gives, without this package."""

import csv
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from running import Command, mostly_slow

from visiontune import export
from visiontune.data.images import load_image
from visiontune.deployment import files
from visiontune.runs import RunDirectory

TASKS = ["classification", "multilabel", "regression", "segmentation", "dense", "detection", "instances"]
QUICK = [("classification", "onnx"), ("classification", "torch_export")]


@pytest.fixture(scope="module")
def copies() -> dict[str, RunDirectory]:
    return {}


@pytest.fixture(scope="module", params=mostly_slow(TASKS, "classification"))
def run(
    request: pytest.FixtureRequest,
    trained_on: Callable[[str], RunDirectory],
    copies: dict[str, RunDirectory],
    tmp_path_factory: pytest.TempPathFactory,
) -> RunDirectory:
    """A copy, since files are exported into it."""
    if request.param not in copies:
        copy = tmp_path_factory.mktemp("runs") / request.param
        shutil.copytree(trained_on(request.param).path, copy)
        copies[request.param] = RunDirectory.open(copy)
    return copies[request.param]


@pytest.fixture
def exported(run: RunDirectory, command: Command) -> Path:
    path = run.exports / "model.onnx"
    if not path.is_file():
        made = command("export", f"run={run.path}")
        assert made.code == 0, made.err
        assert made.out.splitlines()[-1] == str(path)
    return path


def evaluated(command: Command, output: Path, *arguments: str) -> tuple[dict[str, float], list[dict[str, str]]]:
    outcome = command("evaluate", *arguments, f"output={output}")
    assert outcome.code == 0, outcome.err
    with (output / "predictions.csv").open(newline="") as file:
        return json.loads((output / "metrics.json").read_text()), list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("run", "backend"), mostly_slow(product(TASKS, ["onnx", "torch_export"]), *QUICK), indirect=["run"]
)
def test_the_same_metrics(run: RunDirectory, exported: Path, command: Command, tmp_path: Path, backend: str) -> None:
    if backend == "torch_export":
        assert command("export", f"run={run.path}", "format=torch_export").code == 0
    metrics, rows = evaluated(command, tmp_path / "own", f"run={run.path}")
    theirs, their_rows = evaluated(command, tmp_path / "theirs", f"run={run.path}", f"backend={backend}")
    if (
        "instances" in run.read_config().heads
    ):  # its loss is of proposals drawn at random, of which one more or less is there
        drawn = [name for name in metrics if name.endswith("loss")]
        assert [theirs.pop(name) for name in drawn] == pytest.approx([metrics.pop(name) for name in drawn], rel=0.01)
    assert len(metrics) > 2 and theirs == pytest.approx(metrics, abs=1e-4)
    assert len(rows) == 4 and [row["path"] for row in their_rows] == [row["path"] for row in rows]
    assert [row["truth"] for row in their_rows] == [row["truth"] for row in rows]
    other = tmp_path / "other.ckpt"
    torch.save(torch.load(run.checkpoint("best"), weights_only=True) | {"more": 1}, other)
    message = command("evaluate", f"run={run.path}", f"backend={backend}", f"checkpoint={other}").message
    assert "was made of other weights" in message and message.endswith(f"format={backend} checkpoint={other}")


def test_same_images_and_rows(run: RunDirectory, exported: Path, command: Command, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name, size in {"a": (90, 70), "b": (40, 64), "c": (64, 64)}.items():  # width, height
        noise = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8).numpy()
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / "in" / f"{name}.png")
    found: dict[str, list[dict[str, str]]] = {}
    for name, more in {"own": [], "onnx": ["backend=onnx"]}.items():
        outcome = command("predict", f"run={run.path}", f"input={tmp_path / 'in'}", f"output={tmp_path / name}", *more)
        assert outcome.code == 0, outcome.err
        with (tmp_path / name / "predictions.csv").open(newline="") as file:
            found[name] = list(csv.DictReader(file))
    assert [row["path"] for row in found["onnx"]] == ["a.png", "b.png", "c.png"]
    assert [row["prediction"] for row in found["onnx"]] == [row["prediction"] for row in found["own"]]
    images = sorted(path.relative_to(tmp_path / "own") for path in (tmp_path / "own").rglob("*.png"))
    assert len(images) >= 3
    for path in images:
        with Image.open(tmp_path / "own" / path) as own, Image.open(tmp_path / "onnx" / path) as theirs:
            assert own.size == theirs.size


@pytest.mark.parametrize("run", mostly_slow(TASKS, "classification"), indirect=True)
def test_without_torch_and_this_package(run: RunDirectory, exported: Path, command: Command, tmp_path: Path) -> None:
    """run_onnx.py says of an image what `predict` says."""
    image = tmp_path / "image.png"
    torch.manual_seed(1)
    Image.fromarray(torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8).numpy()).save(image)
    script = exported.with_name("run_onnx.py")
    assert len(script.read_text().splitlines()) <= 60
    alone = (
        "import sys, runpy; sys.modules['torch'] = sys.modules['visiontune'] = None; "
        f"sys.argv = ['run_onnx.py', {str(image)!r}]; runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (task,) = run.read_config().heads
    assert done.stdout.startswith(f"{image}  {task}: ")
    said = done.stdout.removesuffix("\n").split(": ", 1)[1]
    if task == "classification":
        command("predict", f"run={run.path}", f"input={image}", f"output={tmp_path / 'own'}")
        with (tmp_path / "own" / "predictions.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert said.split()[0] == row["prediction"]
    assert said


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "CMYK", "I;16"])
@pytest.mark.parametrize("run", ["classification"], indirect=True)
def test_script_reads_images_as_training_does(run: RunDirectory, exported: Path, tmp_path: Path, mode: str) -> None:
    """Transparent pixels, 16 bits, another colour space: the same pixels, and the very same answers."""
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    noise = torch.randint(0, 256, (20, 30, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).numpy()
    if mode == "I;16":
        Image.fromarray(noise[..., :2].copy().view(np.uint16)[..., 0]).save(path)
    else:
        image = Image.fromarray(noise, "CMYK" if mode == "CMYK" else "RGBA").convert(mode)
        image.save(path, **({"transparency": 0} if mode == "P" else {}))
    with Image.open(path) as stored:
        assert stored.mode.startswith(mode[0])
    script = runpy.run_path(str(exported.with_name("run_onnx.py")))
    for channels in (1, 3):
        script["about"]["channels"] = channels
        np.testing.assert_array_equal(
            np.atleast_3d(script["read"](path)).transpose(2, 0, 1), load_image(path, channels)
        )
    found = files.OnnxFile(exported)(load_image(path)[None])
    for name, value in script["predict"](path).items():
        np.testing.assert_array_equal(value, found[name])


@pytest.mark.parametrize("run", mostly_slow(TASKS, "classification"), indirect=True)
def test_a_file_that_disagrees_is_not_left(
    run: RunDirectory, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = files.write

    def wrong(graph: Any, path: Path, form: str) -> None:
        with torch.no_grad():
            weight = next(p for name, p in graph.heads.named_parameters() if name.endswith("weight"))
            before = weight.clone()
            weight.mul_(1.01).add_(0.01)
            whole(graph, path, form)
            weight.copy_(before)

    monkeypatch.setattr(export, "write", wrong)
    outcome = command("export", f"run={run.path}", f"output={tmp_path}")
    assert outcome.code == 1 and outcome.err.startswith("error: the exported file disagrees with the model: ")
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(command: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = command("train", *tiny).run
    assert (
        "format=tflite: expected onnx or torch_export, got text; write format=onnx"
        in command("export", f"run={run.path}", "format=tflite").message
    )
    missing = command("evaluate", f"run={run.path}", "backend=onnx").message
    assert missing.endswith(f"make it with visiontune export run={run.path} format=onnx")
    status = run.status.read_text()
    run.status.write_text(status.replace("finished", "interrupted"))
    assert (
        f"is interrupted: resume it with visiontune train run={run.path}"
        in command("export", f"run={run.path}").message
    )
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    outcome = command("export", f"run={run.path}", "checkpoint=best")
    assert outcome.message == "format=onnx needs onnxscript: pip install 'visiontune[export]'"
    assert not list(run.exports.glob("*.onnx"))
