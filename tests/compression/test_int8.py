"""8-bit integers in place of floats: the same predictions with a quarter of the bytes."""

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
    """A trained network, since tiny differences change the predictions of an untrained one."""
    keys = [key.partition("=")[0] for key in WIDE]
    small = [override for override in SMALL if override.partition("=")[0] not in keys]
    steps = ["trainer.max_epochs=6", "strategy=full", "strategy.batchnorm=train", "scheduler=one_cycle"]
    return command("train", *small, *WIDE, *steps, "optimizer.lr=0.01", "augment=none").run


def metrics(run: RunDirectory) -> dict[str, float]:
    return json.loads(run.metrics.read_text())


@pytest.fixture(scope="module")
def quantized(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return Int8(images=64).apply(run, tmp_path_factory.mktemp("int8") / "run")


@pytest.mark.slow
def test_accuracy_and_size_of_a_quantized_run(run: RunDirectory, quantized: RunDirectory) -> None:
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
def test_a_quantized_run_is_an_ordinary_run(quantized: RunDirectory, command: Command, tmp_path: Path) -> None:
    out = command("evaluate", f"run={quantized.path}", "split=val").out
    values = {line.split()[0]: float(line.split()[1]) for line in out.splitlines() if "/" in line.split()[0]}
    assert values["val/classification/loss"] == pytest.approx(metrics(quantized)["val/classification/loss"], abs=1e-6)
    assert "is already an exported file" in command("export", f"run={quantized.path}").message
    assert (
        "is an exported file, which cannot be trained" in command("train", f"run={quantized.path}", "epochs=99").message
    )
    with pytest.raises(UserError, match="already quantized"):
        Int8().check(quantized.read_config())


@pytest.mark.slow
def test_sensitive_layers_stay_in_float(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With wrong ranges the second layer stays in float, besides the small first and last layers, which always do."""
    calibrate = Network.calibrate

    def calibrate_badly(self: Network, *arguments: Any) -> Calibration:
        calibration = calibrate(self, *arguments)
        (node,) = self.layers[SECOND]
        return replace(calibration, ranges=calibration.ranges | {node.input[0]: (0.0, 1e4)})

    monkeypatch.setattr(Network, "calibrate", calibrate_badly)
    result = Int8(images=64).apply(run, tmp_path / "run")
    lines = [line for line in result.log.read_text().splitlines() if " -> " in line]
    assert len(lines) == 2 and lines[1].endswith(f"in float: {LAST}, {FIRST}, {SECOND}")
    assert metrics(result)["val/classification/accuracy"] > metrics(run)["val/classification/accuracy"] - 0.0101


@pytest.mark.slow
def test_small_layers_stay_in_float_first(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With equal sensitivities: one, two and four layers, and never more than half of the weights."""
    sizes: dict[str, int] = {}

    def equal_sensitivities(self: Network, *_: Any) -> dict[str, float]:
        sizes.update(self.sizes)
        return dict.fromkeys(self.layers, 1.0)

    losses = iter([5.0, 5.0, 5.0, 0.0])
    monkeypatch.setattr(Network, "sensitivities", equal_sensitivities)
    monkeypatch.setattr(int8, "metric_drop", lambda *_: next(losses))
    result = Int8(images=8).apply(run, tmp_path / "run")
    smallest = sorted(sizes.keys() - {FIRST, LAST}, key=lambda layer: sizes[layer])
    lines = [line for line in result.log.read_text().splitlines() if " -> " in line]
    float_layers = [line.partition("in float: ")[2].split(", ") for line in lines]
    assert float_layers[:3] == [[LAST, FIRST], [LAST, FIRST, smallest[0]], [LAST, FIRST, *smallest[:2]]]
    assert (
        set(float_layers[3]) == {LAST, FIRST, *smallest[:4]}
        and sum(sizes[layer] for layer in float_layers[3]) < sum(sizes.values()) / 2
    )


def convolution(path: Path, weight: np.ndarray) -> Network:
    """raw.y = (x - 3) * weight, as a 1 x 1 convolution."""
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
            helper.make_tensor_value_info("three", TensorProto.FLOAT, []),  # constant, like anchors
        ],
        [numpy_helper.from_array(np.float32(3), "three"), numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return Network(path)


@pytest.mark.parametrize(("reduce_range", "most"), [(False, 127), (True, 64)])
def test_integers_of_a_convolution(tmp_path: Path, reduce_range: bool, most: int) -> None:
    """Weights by hand: one symmetric scale per channel; operations before the convolution stay in float."""
    weight = np.array([[[[1.0]]], [[[-0.02]]]], np.float32)
    network = convolution(tmp_path / "one.onnx", weight)
    image = torch.arange(16, dtype=torch.uint8).view(1, 4, 4)
    calibration = network.calibrate([image], "minmax")
    assert calibration.ranges["x"] == (-3, 12) and [node.name for node in network.layers["weight"]] == ["conv"]
    model = network.quantized(calibration, ["weight"], reduce_range)
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    integers = next(value for value in values.values() if value.dtype == np.int8 and value.ndim == 4)
    assert integers.ravel().tolist() == [most, -most]
    scales = next(value for value in values.values() if value.dtype == np.float32 and value.shape == (2,))
    np.testing.assert_allclose(scales * most, [1, 0.02], rtol=0.02)
    ((outputs,),) = [list(batch_outputs.values()) for batch_outputs in network._run(model, [image], ["raw.y"])]
    np.testing.assert_allclose(outputs[0, 0].ravel(), np.arange(16) - 3, atol=15 / 255 + 0.01)
    ((three,),) = [list(batch_outputs.values()) for batch_outputs in network._run(model, [image], ["three"])]
    assert three == 3
    assert network.sensitivities(calibration, [image], reduce_range)["weight"] < 1e-3


@pytest.mark.parametrize(("width", "first"), [(64, ["stem"]), (48, [])])
def test_a_small_first_layer_stays_in_float(tmp_path: Path, width: int, first: list[str]) -> None:
    """8 x 3 x 9 multiply-adds per pixel are 4.5% of all with 64 x 8 x 9 others, and 5.9% with 48 x 8 x 9."""
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
def test_bias_correction_removes_the_mean_shift(tmp_path: Path, group: int) -> None:
    """By hand: the bias corrects the rounding error of its channel's weights times their mean input."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 6 // group, 3, 3)).astype(np.float32)
    weight[:, 0, 0, 0] = 40  # makes the rounding of the others coarse
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
        model_int8 = network.quantized(calibration, ["weight"], False, correct)
        outputs, truth = (
            np.stack([batch_outputs["raw.y"][0] for batch_outputs in network._run(model, images, ["raw.y"])])
            for model in (model_int8, network.model)
        )
        shifts.append(np.abs((outputs - truth).mean((0, 2, 3))))
    assert shifts[0].max() > 20 and shifts[1].max() < 1


def test_activation_ranges() -> None:
    """`mse` clips outliers, for finer steps where most values are."""
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
def test_cpus_without_vnni(flags: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_limit_that_cannot_be_kept(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With wrong ranges in all layers the step fails; it writes no file that is worse than allowed."""
    calibrate = Network.calibrate

    def calibrate_badly(self: Network, *arguments: Any) -> Calibration:
        calibration = calibrate(self, *arguments)
        return replace(calibration, ranges=dict.fromkeys(calibration.ranges, (0.0, 1e6)))

    monkeypatch.setattr(Network, "calibrate", calibrate_badly)
    with pytest.raises(RunError, match="half of the weights"):
        Int8(images=8).apply(run, tmp_path / "run")


def test_the_recipe() -> None:
    from visiontune.config.compose import config_dir
    from visiontune.nodes import build

    recipe: Any = OmegaConf.load(config_dir() / "recipe" / "int8.yaml")
    assert isinstance(build(recipe.steps.int8, "recipe.steps.int8", "a Step"), Int8)
