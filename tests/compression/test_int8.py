"""Integers of 8 bits in the place of floats: the same answers, from a quarter of the bytes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from omegaconf import OmegaConf
from onnx import TensorProto, helper, numpy_helper
from running import SMALL, Command

from visiontune.compression import Int8, int8, quantization
from visiontune.compression import calibration as calibrating
from visiontune.compression.calibration import Calibration
from visiontune.compression.quantization import Network
from visiontune.errors import RunError, UserError
from visiontune.runs import RunDirectory

WIDE = ["backbone.widths=[16,32,64]", "backbone.depth=2", "data.image_size=32", "data.limit_train=600", "logger=none"]

FIRST, SECOND = "backbone.model.block1.conv1.weight", "backbone.model.block1.conv2.weight"
LAST = "heads.classification.linear.weight"


@pytest.fixture(scope="module")
def run(command: Command) -> RunDirectory:
    """A network that has learned: what an untrained one says is left to the last bit."""
    own = [key.partition("=")[0] for key in WIDE]
    small = [override for override in SMALL if override.partition("=")[0] not in own]
    steps = ["trainer.max_epochs=6", "strategy=full", "strategy.batchnorm=train", "scheduler=one_cycle"]
    return command("train", *small, *WIDE, *steps, "optimizer.lr=0.01", "augment=none").run


def metrics(run: RunDirectory) -> dict[str, float]:
    return json.loads(run.metrics.read_text())


@pytest.fixture(scope="module")
def quantized(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return Int8(images=64).apply(run, tmp_path_factory.mktemp("int8") / "run")


@pytest.mark.slow
def test_what_is_left_of_a_run(run: RunDirectory, quantized: RunDirectory) -> None:
    before, after = metrics(run), metrics(quantized)
    assert before["test/classification/accuracy"] > 0.6
    assert after.keys() == before.keys() and after != before
    for split in ("val", "test"):
        assert after[f"{split}/classification/accuracy"] > before[f"{split}/classification/accuracy"] - 0.015
    weights = torch.load(run.checkpoint("best"), weights_only=True)["state_dict"]
    size = (quantized.exports / "model.onnx").stat().st_size
    assert size < sum(value.numel() * 4 for value in weights.values()) / 3
    assert quantized.checkpoint("best").read_bytes() == run.checkpoint("best").read_bytes()
    assert sorted(path.name for path in quantized.exports.iterdir()) == ["model.onnx", "run_onnx.py"]
    assert quantized.read_status()["objective"]["value"] == after["val/classification/accuracy"]


@pytest.mark.slow
def test_a_run_like_any_other(quantized: RunDirectory, command: Command, tmp_path: Path) -> None:
    out = command("evaluate", f"run={quantized.path}", "split=val").out
    found = {line.split()[0]: float(line.split()[1]) for line in out.splitlines() if "/" in line.split()[0]}
    assert found["val/classification/loss"] == pytest.approx(metrics(quantized)["val/classification/loss"], abs=1e-6)
    assert "is a file already" in command("export", f"run={quantized.path}").message
    assert (
        "is an exported file, which cannot be trained" in command("train", f"run={quantized.path}", "epochs=99").message
    )
    with pytest.raises(UserError, match="already quantized"):
        Int8().check(quantized.read_config())


@pytest.mark.slow
def test_layers_that_hurt_stay_in_float(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the second layer's input ruined, that layer is left in float, beside the small first and last as always."""
    calibrate = Network.calibrate

    def ruined(self: Network, *arguments: Any) -> Calibration:
        found = calibrate(self, *arguments)
        (node,) = self.layers[SECOND]
        return replace(found, ranges=found.ranges | {node.input[0]: (0.0, 1e4)})

    monkeypatch.setattr(Network, "calibrate", ruined)
    made = Int8(images=64).apply(run, tmp_path / "run")
    lines = [line for line in made.log.read_text().splitlines() if " -> " in line]
    assert len(lines) == 2 and lines[1].endswith(f"in float: {LAST}, {FIRST}, {SECOND}")
    assert metrics(made)["val/classification/accuracy"] > metrics(run)["val/classification/accuracy"] - 0.0101


@pytest.mark.slow
def test_small_layers_stay_in_float_first(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all hurt alike: one, two and four of them, and never more than half of the weights."""
    sizes: dict[str, int] = {}

    def alike(self: Network, *_: Any) -> dict[str, float]:
        sizes.update(self.sizes)
        return dict.fromkeys(self.layers, 1.0)

    losses = iter([5.0, 5.0, 5.0, 0.0])
    monkeypatch.setattr(Network, "sensitivities", alike)
    monkeypatch.setattr(int8, "metric_drop", lambda *_: next(losses))
    made = Int8(images=8).apply(run, tmp_path / "run")
    smallest = sorted(sizes.keys() - {FIRST, LAST}, key=lambda layer: sizes[layer])
    kept = [line.partition("in float: ")[2].split(", ") for line in made.log.read_text().splitlines() if " -> " in line]
    assert kept[:3] == [[LAST, FIRST], [LAST, FIRST, smallest[0]], [LAST, FIRST, *smallest[:2]]]
    assert (
        set(kept[3]) == {LAST, FIRST, *smallest[:4]}
        and sum(sizes[layer] for layer in kept[3]) < sum(sizes.values()) / 2
    )


def convolution(path: Path, weight: np.ndarray) -> Network:
    """raw.y = (x - 3) * weight, by a convolution with cells of one pixel."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "three"], ["x"], "sub"),
        helper.make_node("Conv", ["x", "weight"], ["raw.y"], "conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, weight.shape[1], 4, 4])],
        [
            helper.make_tensor_value_info("raw.y", TensorProto.FLOAT, [1, len(weight), 4, 4]),
            helper.make_tensor_value_info("three", TensorProto.FLOAT, []),  # as a detector gives its anchors
        ],
        [numpy_helper.from_array(np.float32(3), "three"), numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return Network(path)


@pytest.mark.parametrize(("reduce_range", "most"), [(False, 127), (True, 64)])
def test_integers_of_a_convolution(tmp_path: Path, reduce_range: bool, most: int) -> None:
    """Weights by hand: a scale a channel, symmetric; what is before the weights stays in float."""
    weight = np.array([[[[1.0]]], [[[-0.02]]]], np.float32)
    network = convolution(tmp_path / "one.onnx", weight)
    image = torch.arange(16, dtype=torch.uint8).view(1, 4, 4)
    calibration = network.calibrate([image], "minmax")
    assert calibration.ranges["x"] == (-3, 12) and [node.name for node in network.layers["weight"]] == ["conv"]
    made = network.quantized(calibration, ["weight"], reduce_range)
    values = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
    integers = next(value for value in values.values() if value.dtype == np.int8 and value.ndim == 4)
    assert integers.ravel().tolist() == [most, -most]
    scales = next(value for value in values.values() if value.dtype == np.float32 and value.shape == (2,))
    np.testing.assert_allclose(scales * most, [1, 0.02], rtol=0.02)
    ((found,),) = [list(one.values()) for one in network._run(made, [image], ["raw.y"])]
    np.testing.assert_allclose(found[0, 0].ravel(), np.arange(16) - 3, atol=15 / 255 + 0.01)
    ((three,),) = [list(one.values()) for one in network._run(made, [image], ["three"])]
    assert three == 3
    assert network.sensitivities(calibration, [image], reduce_range)["weight"] < 1e-3


@pytest.mark.parametrize(("width", "first"), [(64, ["stem"]), (48, [])])
def test_a_first_layer_with_little_to_do_stays_in_float(tmp_path: Path, width: int, first: list[str]) -> None:
    """8 x 3 x 9 multiply-adds a pixel are 4.5% of all beside 64 x 8 x 9, and 5.9% beside 48 x 8 x 9."""
    weights = {"stem": np.ones((8, 3, 3, 3), np.float32), "next": np.ones((width, 8, 3, 3), np.float32)}
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "stem"], ["y"], "one", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["y", "next"], ["raw.y"], "two", pads=[1, 1, 1, 1]),
    ]
    ends = [
        helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 3, 10, 10]),
        helper.make_tensor_value_info("raw.y", TensorProto.FLOAT, [1, width, 10, 10]),
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "two", ends[:1], ends[1:], constants)
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    assert Network(path).first(torch.zeros(3, 10, 10, dtype=torch.uint8)) == first


@pytest.mark.parametrize("group", [1, 3])
def test_rounded_weights_shift_nothing_in_the_mean(tmp_path: Path, group: int) -> None:
    """By hand: a bias makes good the error of its channel's weights times the mean of what they are given."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 6 // group, 3, 3)).astype(np.float32)
    weight[:, 0, 0, 0] = 40  # the others are rounded coarsely
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "weight", "bias"], ["raw.y"], "conv", group=group),
    ]
    ends = [
        helper.make_tensor_value_info(name, kind, [1, 6, *size])
        for name, kind, size in (("image", TensorProto.UINT8, (9, 9)), ("raw.y", TensorProto.FLOAT, (7, 7)))
    ]
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.ones(6, np.float32), "bias")]
    graph = helper.make_graph(nodes, "one", ends[:1], ends[1:], constants)
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    network = Network(path)
    images = [torch.from_numpy(rng.integers(100, 156, (6, 9, 9), dtype=np.uint8)) for _ in range(20)]
    calibration = network.calibrate(images, "minmax")
    np.testing.assert_allclose(calibration.means["weight"], torch.stack(images).double().mean((0, 2, 3)), rtol=1e-6)
    shifts = []
    for correct in (False, True):
        made = network.quantized(calibration, ["weight"], False, correct)
        found, truth = (
            np.stack([one["raw.y"][0] for one in network._run(model, images, ["raw.y"])])
            for model in (made, network.model)
        )
        shifts.append(np.abs((found - truth).mean((0, 2, 3))))
    assert shifts[0].max() > 20 and shifts[1].max() < 1


def test_ranges() -> None:
    """`mse` gives up what is far out for finer steps where most values are."""
    values = np.random.default_rng(0).normal(size=(2, 402))
    values[:, :2] = [[-10.0, 8.0], [-9.0, 10.0]]
    assert calibrating._range(values, "minmax") == (-10, 10)
    low, high = calibrating._range(values, "mse")
    assert low == -high and 2.5 < high < 6
    errors = [calibrating._rounding_error(values[:, 2:], *limits) for limits in ((low, high), (-10, 10))]
    assert errors[0] < errors[1] / 2


@pytest.mark.parametrize(
    ("flags", "expected"), [("avx2 avx512f", True), ("avx2 avx_vnni", False), ("avx512_vnni", False)]
)
def test_processors_without_vnni(flags: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(Path, "read_text", lambda _: f"flags : fpu {flags} sse")
    assert quantization.saturates() is expected
    monkeypatch.setattr(quantization.platform, "machine", lambda: "aarch64")
    assert quantization.saturates() is False


@pytest.mark.parametrize("wrong", [{"calibration": "best"}, {"images": 0}, {"max_drop": -1}, {"reduce_range": "no"}])
def test_bad_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Int8(**wrong)


@pytest.mark.slow
def test_what_cannot_be_kept(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges that ruin every layer: no file that is worse than was allowed passes for a result."""
    calibrate = Network.calibrate

    def ruined(self: Network, *arguments: Any) -> Calibration:
        found = calibrate(self, *arguments)
        return replace(found, ranges=dict.fromkeys(found.ranges, (0.0, 1e6)))

    monkeypatch.setattr(Network, "calibrate", ruined)
    with pytest.raises(RunError, match="half of the weights"):
        Int8(images=8).apply(run, tmp_path / "run")


def test_the_recipe() -> None:
    from visiontune.config.compose import config_dir
    from visiontune.training.build import make

    recipe: Any = OmegaConf.load(config_dir() / "recipe" / "int8.yaml")
    assert isinstance(make(recipe.steps.int8), Int8)
