"""`visiontune fetch`: weights of the library's cache in a folder that `train` reads without a network."""

import json
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import huggingface_hub.constants
import pytest
import torch
from running import Command
from safetensors.torch import save
from torchvision.models import get_model, get_model_weights

from visiontune.config.compose import train_config
from visiontune.config.launch import Launch
from visiontune.data import TaskInfo
from visiontune.errors import UserError
from visiontune.models.backbones import WeightReport, build
from visiontune.models.backbones.sources import read_tensors
from visiontune.models.backbones.weight_folders import sha256
from visiontune.models.finetuner import FineTuner
from visiontune.runs import disk
from visiontune.runs.output import check_fetched
from visiontune.training.build import build_finetuner
from visiontune.training.resolve import resolve

NAME = "lraspp_mobilenet_v3_large"  # the smallest


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """torchvision's empty cache, without a network; returns where the download of `NAME` would be."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no address for x.org")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    file = tmp_path / "cache" / "hub" / "checkpoints" / Path(urlparse(get_model_weights(NAME).DEFAULT.url).path).name
    file.parent.mkdir(parents=True)
    return file


def test_cached_weights_are_written_and_loaded(cache: Path, command: Command, tmp_path: Path) -> None:
    state = get_model(NAME, weights=None, weights_backbone=None).state_dict()
    torch.save(state, cache)
    output = tmp_path / "weights"
    outcome = command("fetch", f"pretrained={NAME}", f"output={output}")
    assert outcome.code == 0, outcome.err
    digest = sha256(cache)
    assert (output / cache.name).read_bytes() == cache.read_bytes()
    content = json.loads((output / "weights.json").read_text())
    assert content["pretrained"] == NAME and content["license"].startswith("BSD-3-Clause")
    assert content["sha256"] == {cache.name: digest}
    line, *_, note, use, last = outcome.out.splitlines()
    assert note.startswith(f"note: {cache}: its SHA-256 does not begin with d234d4ea")  # it has random weights
    assert line == f"{cache.name}: 13 MB, SHA-256 {digest}" and last == str(output)
    override = f"pretrained.weights={output}"
    words = f"visiontune plan pretrained={NAME} {override} heads=segmentation data=OPTION data.root=DIR"
    assert use == f"use them with: {words}"

    cache.unlink()
    model, report = load(override)
    assert report.source == str(output)
    name = "low_classifier.weight"
    rows = model.heads["segmentation"].get_parameter(f"decoder.layers.{name}")
    assert torch.equal(rows, state[f"classifier.{name}"][[0, 15]])  # background, person
    (output / cache.name).write_bytes((output / cache.name).read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="is damaged, since it has another checksum"):
        read_tensors(output, "pretrained.weights")


def load(*overrides: str) -> tuple[FineTuner, WeightReport]:
    """The model of a run with the classes background and person, and the report of its weights."""
    keys = ["heads=segmentation", "data=digit_scenes", f"pretrained={NAME}", "trainer=cpu", *overrides]
    cfg = resolve(train_config(keys), Launch())
    return build_finetuner(cfg, {"segmentation": TaskInfo("segmentation", ["background", "person"])}, epochs=1)


def test_an_earlier_fetch_is_replaced_and_other_files_stay(cache: Path, command: Command, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, cache)
    output = tmp_path / "weights"
    assert command("fetch", f"pretrained={NAME}", f"output={output}").code == 0
    torch.save({"a": torch.ones(1)}, cache)
    assert command("fetch", f"pretrained={NAME}", f"output={output}").code == 0
    assert torch.load(output / cache.name)["a"] == 1
    message = command("fetch", "pretrained=fcos_resnet50_fpn", f"output={output}").message
    assert message == (
        f"{output} has other files, so nothing is written there: write a new folder, such as "
        f"output={output}/fcos_resnet50_fpn"
    )
    with pytest.raises(UserError, match="has other files, so nothing is written there"):
        check_fetched(cache.parent, "weights.json", {"pretrained": NAME})
    assert {path.name for path in output.iterdir()} == {cache.name, "weights.json"}


def test_a_model_of_transformers(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder has the config and the weights, as in the cache of huggingface_hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    choice, output = "pretrained=rtdetr_v2_r18vd", tmp_path / "weights"
    outcome = command("fetch", choice, f"output={output}")
    assert outcome.code == 2 and f"run `visiontune fetch {choice} output=DIR`, copy DIR here" in outcome.err
    repository = tmp_path / "models--PekingU--rtdetr_v2_r18vd"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    content = {"config.json": b"{}", "model.safetensors": save({"a": torch.ones(3)})}
    for name, data in content.items():
        (snapshot / name).write_bytes(data)
    assert command("fetch", choice, f"output={output}").code == 0
    assert all((output / name).read_bytes() == data for name, data in content.items())
    description = json.loads((output / "weights.json").read_text())
    assert description["license"].startswith("Apache-2.0") and description["sha256"].keys() == content.keys()
    assert read_tensors(output)["a"].tolist() == [1, 1, 1]


def test_a_backbone(command: Command, tmp_path: Path) -> None:
    outcome = command("fetch", "backbone=efficientnet_lite0", f"output={tmp_path}")
    assert outcome.code == 0, outcome.err
    assert f"plan backbone.name=tf_efficientnet_lite0 backbone.weights={tmp_path} data=" in outcome.out
    assert (tmp_path / "tf_efficientnet_lite0.safetensors").stat().st_mode & 0o044 == 0o044  # for the whole team
    expected = build("tf_efficientnet_lite0")[0].model.state_dict()
    backbone, report = build("tf_efficientnet_lite0", weights=str(tmp_path))
    assert report.matched_fraction == 1.0 and report.note == ""
    assert all(torch.equal(value, expected[key]) for key, value in backbone.model.state_dict().items())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["pretrained=none"],
            "fetch needs a model: write pretrained=fasterrcnn_mobilenet_v3_large_320_fpn, or backbone=resnet50 for",
        ),
        (["pretrained=fcos"], "pretrained=fcos: unknown option; near it: fcos_resnet50_fpn; write pretrained= one of "),
        (
            ["backbone.name=resnet51"],
            "backbone.name=resnet51: no such network in torchvision, timm, transformers or visiontune;",
        ),
        (["backbone=small_cnn"], "small_cnn has no pretrained weights: write a network that has some, such as "),
        (["backbone=resnet50", "backbone.weights=a.pth"], "backbone.weights=a.pth: fetch writes the weights of the li"),
        (["backbone=resnet50", f"pretrained={NAME}"], f"backbone=resnet50 has no effect with pretrained={NAME}, "),
    ],
)
def test_what_is_refused(overrides: list[str], words: str, command: Command, tmp_path: Path) -> None:
    assert command("fetch", *overrides, f"output={tmp_path / 'weights'}").message.startswith(words)
    assert not (tmp_path / "weights").exists()


@pytest.mark.usefixtures("cache")
def test_no_network(command: Command, tmp_path: Path) -> None:
    """torchvision prints a line before it downloads."""
    for choice in (f"pretrained={NAME}", "backbone.name=shufflenet_v2_x0_5"):
        outcome = command("fetch", choice, f"output={tmp_path / 'weights'}")
        assert outcome.code == 2 and not (tmp_path / "weights").exists()
        assert f"On a machine with a network run `visiontune fetch {choice} output=DIR`, copy DIR here" in outcome.err


def test_a_small_disk(cache: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> Any:
        return command("fetch", f"pretrained={NAME}", f"output={tmp_path / 'weights'}").message

    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: (10**9, 10**9, 1))
    assert run() == (
        f"the disk of {cache.parent} has 0 MB free, and the weights need 13 MB. Free some space, or set TORCH_HOME to "
        "a folder of another disk, which is torchvision's cache"
    )
    torch.save({"a": torch.zeros(1000)}, cache)
    assert run().endswith("Free some space, or write output=DIR with a folder of another disk")
    assert not (tmp_path / "weights").exists()
