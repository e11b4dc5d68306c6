"""Structured pruning: which channels are removed, and the pruned run."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from running import Command, mostly_slow

from visiontune.compression import Prune, prune
from visiontune.compression.costs import macs, params
from visiontune.compression.pruning import Ranking, _join_single_images, prune_channels, prune_to_target
from visiontune.compression.step import source_config
from visiontune.config.compose import initialized
from visiontune.config.derive import derive
from visiontune.data import TaskInfo
from visiontune.errors import UserError
from visiontune.models.finetuner import FineTuner
from visiontune.runs import RunDirectory
from visiontune.training.build import build_finetuner
from visiontune.training.load import load_model

pytest.importorskip("torch_pruning")
Config = Callable[..., DictConfig]
SIZE = (16, 16)


def network(config: Config, *overrides: str, kind: str = "classification", base: list[str] | None = None) -> FineTuner:
    torch.manual_seed(0)
    cfg = config(*overrides, **({} if base is None else {"base": base}))
    return build_finetuner(cfg, {kind: TaskInfo(kind, tuple("abc"))}, 1, load=False)[0].eval()


def widths(model: FineTuner) -> list[int]:
    network: Any = model.backbone.model
    return [network.block1.conv1.out_channels, network.block2.conv1.out_channels]


def test_removing_dead_channels_changes_nothing(config: Config) -> None:
    """Half of the channels of each layer output zeros; the outputs are the same without them."""
    model = network(config)
    net: Any = model.backbone.model
    with torch.no_grad():
        for norm, dead in ((net.block1.norm1, [0, 3]), (net.block2.norm1, [1, 2, 5, 7])):
            norm.weight[dead], norm.bias[dead] = 0.0, 0.0
    for ranking in (Ranking("batchnorm", multiple=1), Ranking("batchnorm", "global", 1)):
        smaller = prune_channels(model, 0.5, ranking, SIZE)
        assert widths(smaller) == [2, 4] and widths(model) == [4, 8]
        image = torch.rand(3, 3, *SIZE)
        with torch.no_grad():
            outputs, expected = (m(image)["classification"]["logits"] for m in (smaller, model))
        torch.testing.assert_close(outputs, expected)
        kept = net.block1.conv1.weight[[1, 2]]
        assert torch.equal(smaller.backbone.model.block1.conv1.weight, kept)  # type: ignore[union-attr, operator]


def test_importances_rank_channels(config: Config) -> None:
    model = network(config)
    net: Any = model.backbone.model
    with torch.no_grad():
        net.block2.conv1.weight[:] = 1.0
        net.block2.conv1.weight[3] = 0.1  # the smallest weights
        model.heads["classification"].get_parameter("linear.weight")[:] = 1.0
        net.block2.norm1.weight[:] = 2.0
        net.block2.norm1.weight[6] = 1.9  # the smallest scale
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    net.block2.conv1.weight.grad[5] = 0.0  # the loss does not depend on it
    net.block2.norm1.weight.grad[5] = 0.0
    for importance, removed in (("magnitude", 3), ("batchnorm", 6), ("taylor", 5)):
        smaller: Any = prune_channels(model, 1 / 8, Ranking(importance, multiple=1), SIZE)
        kept = [i for i in range(8) if i != removed]
        assert torch.equal(smaller.backbone.model.block2.norm1.weight, net.block2.norm1.weight[kept]), importance


def test_a_layer_without_gradients_is_the_least_important(config: Config) -> None:
    model = network(config, "backbone.widths=[32,32]")
    for name, parameter in model.named_parameters():
        parameter.grad = torch.ones_like(parameter) if "block1" in name else None
    assert widths(prune_channels(model, 0.5, Ranking("taylor", "global"), SIZE)) == [32, 8]


def test_global_and_uniform_scope(config: Config) -> None:
    model = network(config, "backbone.widths=[32,32]")
    net: Any = model.backbone.model
    with torch.no_grad():  # half of the second layer is almost zero; all of the first is equal
        for tensor in (net.block1.conv1.weight, net.block1.norm1.weight, net.block2.norm1.weight):
            tensor.fill_(1.0)
        net.block2.conv1.weight[:16], net.block2.norm1.weight[:16] = 1e-3, 1e-3
        model.heads["classification"].get_parameter("linear.weight")[:, :16] = 0.0
    assert widths(prune_channels(model, 0.25, Ranking(scope="global"), SIZE)) == [32, 16]
    assert widths(prune_channels(model, 0.25, Ranking(scope="uniform"), SIZE)) == [24, 24]
    assert widths(prune_channels(model, 0.35, Ranking(scope="uniform"), SIZE)) == [24, 24]  # multiples of 8
    assert widths(prune_channels(model, 0.99, Ranking(scope="global"), SIZE)) == [8, 8]  # no layer loses all channels


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_a_target_is_met_as_closely_as_channels_allow(cost: str, config: Config) -> None:
    model = network(config, "backbone.widths=[64,64]", "backbone.depth=2")
    count: Any = params if cost == "params" else lambda network: macs(network, SIZE)
    for fraction in (0.25, 0.6):
        share = count(prune_to_target(model, model, cost, fraction, Ranking(multiple=1), SIZE)) / count(model)
        assert 0.95 * fraction < share <= fraction
    with pytest.raises(UserError, match=rf"{cost}=0.001 of the original cannot be reached .* still has 0\.\d+; write"):
        prune_to_target(model, model, cost, 0.001, Ranking(multiple=1), SIZE)


@pytest.mark.slow
def test_latency_is_measured(config: Config) -> None:
    model = network(config, "backbone.widths=[64,128]", "backbone.depth=2")
    smaller = prune_to_target(model, model, "latency", 0.6, Ranking(), (32, 32))
    assert macs(smaller, (32, 32)) < 0.8 * macs(model, (32, 32))


FAMILIES = [
    "resnet18",
    "tf_efficientnet_lite0",  # depthwise convolutions, asymmetric padding
    "regnet_y_400mf",  # grouped convolutions, squeeze and excitation
    "convnext_atto",  # layer norms, layer scale
    "vit_tiny_patch16_224",  # only between the two linear layers of a block
]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.slow
def test_families_and_heads_can_be_pruned(name: str, config: Config) -> None:
    """`check` builds the pruned network again from its config and compares all maps, embeddings and raw outputs."""
    cfg = config("data=digit_scenes", "heads=multitask", "data.scenes=24", f"backbone.name={name}", base=[])
    cfg = derive(cfg, {"data.image_size": 64})
    step = Prune(macs=0.9)
    checked = step.check(as_source_config(cfg))
    shapes = checked.backbone.shapes
    assert len(shapes) > 10 and checked.backbone.weights is None


def as_source_config(cfg: DictConfig) -> DictConfig:
    return derive(cfg, {"compressed_from": "", "overrides": []})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("swin_t", "its attention is within windows"),
        ("shufflenet_v2_x0_5", "ZeroDivisionError"),
        pytest.param("rf_detr_dinov2", "its attention is within windows", marks=pytest.mark.slow),
    ],
)
def test_unsupported_networks_are_refused(name: str, reason: str, config: Config) -> None:
    cfg = as_source_config(config(f"backbone.name={name}", "data.image_size=112", base=[]))
    with pytest.raises(UserError, match=rf"cannot make {name} narrower \({reason}.*recipe=distill, .* recipe=int8"):
        Prune(macs=0.5).check(cfg)


@pytest.mark.parametrize("head", mostly_slow(["segmentation", "dense"], "segmentation"))
def test_layers_with_a_width_that_follows_that_of_a_map_are_refused(head: str, config: Config) -> None:
    keys = ["decoder=fcn", "auxiliary=0.5"][: 2 if head == "segmentation" else 1]
    options = [f"heads.{head}.{key}" for key in keys]
    cfg = config("data=digit_scenes", "data.scenes=20", f"heads={head}", *options, "backbone=small_cnn", base=[])
    with pytest.raises(UserError, match=f"cannot narrow small_cnn under {' and '.join(options)}: the width of"):
        Prune(macs=0.5).check(as_source_config(cfg))


def test_a_frozen_batchnorm_is_refused(config: Config) -> None:
    cfg = as_source_config(config("backbone.name=resnet18", "+backbone.norm=frozen", "data.image_size=64", base=[]))
    with pytest.raises(
        UserError, match=r"cannot make resnet18 narrower \(its BatchNorm is frozen, backbone.norm=frozen"
    ):
        Prune(macs=0.5).check(cfg)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "prune has no target: set exactly one of macs, params, latency between 0 and 1, such as macs=0.5"),
        ({"macs": 0.5, "params": 0.5}, "set exactly one of macs"),
        ({"macs": 50}, "set exactly one of macs"),
        ({"macs": 0.5, "importance": "random"}, "importance=random scope=global of prune: write one of magnitude"),
        ({"macs": 0.5, "scope": "all"}, "and one of uniform, global"),
        ({"macs": 0.5, "rounds": 0}, "write 1 or more"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Prune(**arguments)
    assert message in str(error.value)


def test_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'visiontune\[compress\]'"):
        Prune(macs=0.5)


def test_single_images_are_joined_for_a_variance() -> None:
    images = torch.arange(5.0).view(5, 1, 1, 1)

    def sizes(batches: Iterable[torch.Tensor]) -> list[int]:
        return [len(batch) for batch in _join_single_images(batches)]

    assert sizes(images.split(1)) == [2, 2] and sizes(images.split(2)) == [2, 2]
    assert sizes(images.split(4)) == [4] and sizes(images[:1].split(1)) == [1]


@pytest.fixture(scope="module")
def smaller(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return Prune(macs=0.5, multiple=1).apply(trained.run, tmp_path_factory.mktemp("smaller") / "run")


@pytest.mark.slow
def test_a_pruned_run_is_an_ordinary_run(
    smaller: RunDirectory, run: RunDirectory, command: Command, tmp_path: Path
) -> None:
    cfg = smaller.read_config()
    assert cfg.compressed_from == str(run.path) and smaller.splits.read_text() == run.splits.read_text()
    pair = [load_model(r, r.read_config())[0] for r in (smaller, run)]
    assert 0.35 < macs(pair[0], SIZE) / macs(pair[1], SIZE) <= 0.5
    for state in (torch.load(r.checkpoint("best"), weights_only=True)["visiontune"] for r in (smaller, run)):
        assert state["tasks"]["classification"]["classes"] == ["brick", "grass", "sky"]
    # In a fresh process.
    code = (
        f"import sys; sys.argv = ['visiontune', 'evaluate', 'run={smaller.path}', 'split=val', 'output={tmp_path}/m']"
    )
    process = subprocess.run([sys.executable, "-c", f"{code}; from visiontune.cli import main; main()"], check=False)
    assert process.returncode == 0
    values = json.loads((tmp_path / "m" / "metrics.json").read_text())
    objective = smaller.read_status()["objective"]
    assert values["val/classification/accuracy"] == pytest.approx(objective["value"], abs=1e-6)
    assert command("compare", smaller.path, run.path).code == 0
    assert "was made by compress" in command("train", f"run={smaller.path}", "epochs=99").message


@pytest.mark.slow
def test_a_pruned_run_can_train(smaller: RunDirectory, run: RunDirectory, command: Command, tmp_path: Path) -> None:
    data = [f"data.root={run.read_config().data.root}", "data=image_folder", "data.image_size=16", "data.num_workers=0"]
    arguments = [f"weights_from={smaller.path}", *data, "trainer=cpu", "epochs=2", "logger=none", "data.batch_size=8"]
    result = command(
        "train", *arguments, "strategy=full", "strategy.batchnorm=train", f"run_dir={tmp_path / 'again'}"
    ).run
    assert result.read_config().backbone.shapes == smaller.read_config().backbone.shapes
    model, _ = load_model(result, result.read_config())
    assert widths(model) == widths(load_model(smaller, smaller.read_config())[0])
    assert command("train", f"run={result.path}", "epochs=3").run.read_status()["status"] == "finished"


@pytest.mark.slow
def test_rounds_are_runs_and_a_killed_step_resumes(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with initialized(None):
        step = Prune(params=0.25, rounds=2, multiple=1, overrides=["strategy=full", "epochs=1"])
        step.check(source_config(run))
        result = step.apply(run, tmp_path / "0_prune")
        first = RunDirectory.open(tmp_path / "0_prune_round_1")
        between = RunDirectory.open(tmp_path / "0_prune_round_1_trained")
        counts = [params(load_model(r, r.read_config())[0]) for r in (run, first, between, result)]
        assert counts[1] == counts[2] and 0.35 < counts[1] / counts[0] <= 0.5 and 0.15 < counts[3] / counts[0] <= 0.25
        before = (between.checkpoints / "best.ckpt").read_bytes()
        monkeypatch.setattr(step.between, "apply", None)
        (result.path / "status.json").unlink()  # killed before its end
        assert step.apply(run, tmp_path / "0_prune").read_status()["status"] == "finished"
        assert (between.checkpoints / "best.ckpt").read_bytes() == before


@pytest.mark.slow
def test_adapters_are_merged(command: Command, tiny: list[str], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lora_run = command("train", *tiny, "strategy=lora", "optimizer.lr=0.01", f"run_dir={tmp_path / 'lora'}").run
    result = Prune(params=0.6, multiple=1, importance="taylor", images=16).apply(lora_run, tmp_path / "pruned")
    model, _ = load_model(result, result.read_config())
    merged, _ = load_model(lora_run, lora_run.read_config(), plain=True)
    rows = {row.tobytes() for row in merged.backbone.model.block1.conv1.weight.detach().numpy()}  # type: ignore[union-attr, operator]
    kept = model.backbone.model.block1.conv1.weight.detach().numpy()  # type: ignore[union-attr, operator]
    assert len(kept) < len(rows) and {row.tobytes() for row in kept} <= rows
