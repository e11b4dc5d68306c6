"""An exported file gives the predictions of the run, and needs no package of ours."""

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
from PIL import Image, PngImagePlugin
from running import Command, mostly_slow

from visiontune import export
from visiontune.data.images import ImageDecoder, load_image
from visiontune.deployment import files, verification
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
    """A copy of the run, since the tests export files into it."""
    if request.param not in copies:
        copy = tmp_path_factory.mktemp("runs") / request.param
        shutil.copytree(trained_on(request.param).path, copy)
        copies[request.param] = RunDirectory.open(copy)
    return copies[request.param]


@pytest.fixture
def exported(run: RunDirectory, command: Command) -> Path:
    path = run.exports / "model.onnx"
    if not path.is_file():
        outcome = command("export", f"run={run.path}")
        assert outcome.code == 0, outcome.err
        assert outcome.out.splitlines()[-1] == str(path)
    return path


def evaluate(command: Command, output: Path, *arguments: str) -> tuple[dict[str, float], list[dict[str, str]]]:
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
    metrics, rows = evaluate(command, tmp_path / "own", f"run={run.path}")
    file = [f"run={run.path}", f"backend={backend}", f"trust={str(backend == 'torch_export').lower()}"]
    theirs, their_rows = evaluate(command, tmp_path / "theirs", *file)
    if "instances" in run.read_config().heads:  # its loss depends on random proposals
        for name in [name for name in metrics if name.endswith("loss")]:
            assert theirs.pop(name) == pytest.approx(metrics.pop(name), rel=0.01)
    assert len(metrics) > 2 and theirs == pytest.approx(metrics, abs=1e-4)
    assert len(rows) == 4 and [row["path"] for row in their_rows] == [row["path"] for row in rows]
    assert [row["truth"] for row in their_rows] == [row["truth"] for row in rows]
    other = tmp_path / "other.ckpt"
    torch.save(torch.load(run.checkpoint("best"), weights_only=True) | {"more": 1}, other)
    message = command("evaluate", *file, f"checkpoint={other}").message
    assert "was made of other weights" in message and message.endswith(f"format={backend} checkpoint={other}")


def test_the_same_images_and_rows(run: RunDirectory, exported: Path, command: Command, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name, size in {"a": (90, 70), "b": (40, 64), "c": (64, 64)}.items():  # width, height
        noise = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8).numpy()
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / "in" / f"{name}.png")
    rows: dict[str, list[dict[str, str]]] = {}
    for name, more in {"own": [], "onnx": ["backend=onnx"]}.items():
        outcome = command("predict", f"run={run.path}", f"input={tmp_path / 'in'}", f"output={tmp_path / name}", *more)
        assert outcome.code == 0, outcome.err
        with (tmp_path / name / "predictions.csv").open(newline="") as file:
            rows[name] = list(csv.DictReader(file))
    assert [row["path"] for row in rows["onnx"]] == ["a.png", "b.png", "c.png"]
    assert [row["prediction"] for row in rows["onnx"]] == [row["prediction"] for row in rows["own"]]
    images = sorted(path.relative_to(tmp_path / "own") for path in (tmp_path / "own").rglob("*.png"))
    assert len(images) >= 3
    for path in images:
        with Image.open(tmp_path / "own" / path) as image, Image.open(tmp_path / "onnx" / path) as other:
            assert image.size == other.size


@pytest.mark.parametrize("run", mostly_slow(TASKS, "classification"), indirect=True)
def test_the_script_needs_neither_torch_nor_this_package(
    run: RunDirectory, exported: Path, command: Command, tmp_path: Path
) -> None:
    """run_onnx.py prints the prediction of `predict`."""
    image = tmp_path / "image.png"
    torch.manual_seed(1)
    Image.fromarray(torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8).numpy()).save(image)
    script = exported.with_name("run_onnx.py")
    assert len(script.read_text().splitlines()) <= 120
    code = (
        "import sys, runpy; sys.modules['torch'] = sys.modules['visiontune'] = None; "
        f"sys.argv = ['run_onnx.py', {str(script)!r}, {str(image)!r}]; "
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 1 and process.stderr.startswith(f"{script}: cannot identify image file")
    assert len(process.stderr.splitlines()) == 1
    (task,) = run.read_config().heads
    assert process.stdout.startswith(f"{image}  {task}: ")
    answer = process.stdout.removesuffix("\n").split(": ", 1)[1]
    if task == "classification":
        command("predict", f"run={run.path}", f"input={image}", f"output={tmp_path / 'own'}")
        with (tmp_path / "own" / "predictions.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert answer.split()[0] == row["prediction"]
    assert answer


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "CMYK", "I;16"])
@pytest.mark.parametrize("run", ["classification"], indirect=True)
def test_script_reads_images_as_training_does(run: RunDirectory, exported: Path, tmp_path: Path, mode: str) -> None:
    """Transparent pixels, 16 bits, another colour space: the same pixels and predictions."""
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
        script["metadata"]["channels"] = channels
        np.testing.assert_array_equal(
            np.atleast_3d(script["read"](path)).transpose(2, 0, 1), load_image(path, channels)
        )
    outputs = files.OnnxFile(exported)(load_image(path)[None])
    for name, value in script["predict"](path).items():
        np.testing.assert_array_equal(value, outputs[name])


def write_photos(folder: Path) -> dict[str, Path]:
    """A photo that EXIF turns, as JPEG and TIFF, with damaged EXIF, with a long text, and grey with 16 bits."""
    folder.mkdir()
    paths = {name: folder / name for name in ("turned.jpg", "turned.tif", "damaged.jpg", "text.png", "deep.png")}
    noise = torch.randint(0, 256, (20, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).numpy()
    image, exif, text = Image.fromarray(noise), Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112] = 6
    image.save(paths["turned.jpg"], exif=exif)
    image.save(paths["turned.tif"], exif=exif)
    image.save(paths["damaged.jpg"], exif=b"Exif\0\0II*\0" + bytes(range(30)))
    text.add_text("prompt", "a" * 2_000_000, zip=True)
    image.save(paths["text.png"], pnginfo=text)
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 7).save(paths["deep.png"])
    return paths


@pytest.mark.parametrize("run", ["classification"], indirect=True)
@pytest.mark.parametrize("orientation", ["apply", "ignore"])
def test_script_reads_photos_as_the_run_does(
    run: RunDirectory, exported: Path, command: Command, tmp_path: Path, orientation: str
) -> None:
    script = runpy.run_path(str(exported.with_name("run_onnx.py")))
    metadata, recorded = script["metadata"], run.read_config().data
    assert {key: metadata[key] for key in ("orientation", "grey_range", "max_pixels")} == {
        "orientation": recorded.orientation,
        "grey_range": recorded.grey_range,
        "max_pixels": recorded.max_pixels,
    }
    paths = write_photos(tmp_path / "photos")
    if orientation == "apply":
        command("predict", f"run={run.path}", f"input={tmp_path / 'photos'}", f"output={tmp_path / 'own'}")
        with (tmp_path / "own" / "predictions.csv").open(newline="") as file:
            rows = {row["path"]: row["prediction"] for row in csv.DictReader(file)}
        lines = {}
        for name, path in paths.items():
            scores = {key.split(".")[1]: value for key, value in script["predict"](path).items()}
            lines[name] = script["describe"]("classification", scores).split()[0]
        assert lines == rows
    for grey_range in (None, [100, 3000]):
        decoder = ImageDecoder.from_config({"orientation": orientation, "grey_range": grey_range})
        metadata.update(channels=3, orientation=orientation, grey_range=grey_range)
        for path in paths.values():
            np.testing.assert_array_equal(script["read"](path).transpose(2, 0, 1), decoder(path), err_msg=path.name)
    metadata["max_pixels"] = 599
    with pytest.raises(ValueError, match="it has 30 x 20 pixels, more than 599"):
        script["read"](paths["text.png"])


@pytest.mark.parametrize("run", mostly_slow(TASKS, "classification"), indirect=True)
def test_a_file_that_disagrees_is_deleted(
    run: RunDirectory, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = files.write

    def write_wrong_weights(graph: Any, path: Path, form: str) -> None:
        with torch.no_grad():
            weight = next(p for name, p in graph.heads.named_parameters() if name.endswith("weight"))
            before = weight.clone()
            weight.mul_(1.01).add_(0.01)
            original(graph, path, form)
            weight.copy_(before)

    monkeypatch.setattr(export, "write", write_wrong_weights)
    outcome = command("export", f"run={run.path}", f"output={tmp_path}")
    assert outcome.code == 1 and outcome.err.startswith("error: the exported file disagrees with the model: ")
    assert list(tmp_path.iterdir()) == []


def test_equal_scores_are_the_reason() -> None:
    """A network that was not trained gives many boxes the same score."""
    distinct = torch.linspace(0.9, 0.1, 100)
    assert verification._explain_ties("detection", [distinct]) is None
    advice = verification._explain_ties("detection", [distinct, torch.full((100,), 0.32)])
    assert advice == (
        "99 of 200 boxes have the score of another box, as those of a network that was not trained, so which boxes are "
        "kept is a matter of chance. Train the run first, or raise heads.detection.score_threshold"
    )


def test_refused_exports(command: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = command("train", *tiny).run
    assert (
        "format=tflite: expected onnx or torch_export, got text; write format=onnx"
        in command("export", f"run={run.path}", "format=tflite").message
    )
    missing = command("evaluate", f"run={run.path}", "backend=onnx").message
    assert missing.endswith(f"make it with visiontune export run={run.path} format=onnx")
    (tmp_path / "other.onnx").write_text("not a model")
    other = command("evaluate", f"run={run.path}", f"backend={tmp_path / 'other.onnx'}").message
    assert other.startswith(f"{tmp_path / 'other.onnx'} is not a file of visiontune export (")
    status = run.status.read_text()
    run.status.write_text(status.replace("finished", "interrupted"))
    assert (
        f"is interrupted: resume it with visiontune train run={run.path}"
        in command("export", f"run={run.path}").message
    )
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    outcome = command("export", f"run={run.path}", "checkpoint=best")
    assert outcome.message == "ONNX files need onnxscript: pip install 'visiontune[export]'"
    assert not list(run.exports.glob("*.onnx"))
