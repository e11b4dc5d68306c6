"""Whole pretrained models: what is loaded, which rows are kept, what is refused, and what the report says."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model_weights

from visiontune.data import TaskInfo
from visiontune.errors import UserError
from visiontune.models.backbones import Backbone, WeightReport, build
from visiontune.models.heads import DetectionHead, Head
from visiontune.models.heads.class_rows import ClassRows
from visiontune.models.pretrained import load, load_pretrained, torchvision

COCO = ["__background__", "person", "bicycle", "car", "N/A", "dog", "N/A"]
SCORES = "heads.detection.detector.model.head.classification_head.cls_logits"
SETTINGS = {
    "name": "fcos_resnet50_fpn",
    "library": "torchvision",
    "task": "detection",
    "weights": "default",
    "load": "all",
    "map": None,
    "classes": None,
    "min_matched": 0.9,
}


class FcosHead(DetectionHead):
    def class_rows(self) -> dict[str, ClassRows]:
        return {f"{SCORES.removeprefix('heads.detection.')}.{name}": ClassRows() for name in ("weight", "bias")}


def build_parts(classes: list[str], seed: int, channels: int = 3, width: int = 64) -> tuple[Backbone, FcosHead]:
    torch.manual_seed(seed)
    backbone, _ = build("small_cnn", weights=None, in_channels=channels, widths=[4, 8, 16], depth=1)
    head = FcosHead(backbone.shape, TaskInfo("detection", classes), channels=width, convs=1)
    for parameter in [*backbone.parameters(), *head.parameters()]:
        nn.init.normal_(parameter)  # biases too
    return backbone, head


def as_state(backbone: Backbone, heads: dict[str, Head]) -> dict[str, Tensor]:
    module = nn.ModuleDict({"backbone": backbone, "heads": nn.ModuleDict(heads)})
    return {key: value.clone() for key, value in module.state_dict().items() if key not in load.STATISTICS}


@pytest.fixture(scope="module")
def source() -> dict[str, Tensor]:
    """The tensors of a trained model of seven classes."""
    backbone, head = build_parts(COCO, seed=1)
    return as_state(backbone, {"detection": head})


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: dict[str, Tensor]) -> Path:
    """torchvision has the weights `source`, with our names; returns the file of its download."""
    weights = SimpleNamespace(meta={"categories": COCO, "_file_size": 74.239}, url="https://x.org/a/fcos-1234.pth")
    monkeypatch.setattr(torchvision, "find_weights", lambda name: weights)
    monkeypatch.setattr(torchvision, "rename_detector", lambda state, task: dict(state))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    file = tmp_path / "hub" / "checkpoints" / "fcos-1234.pth"
    file.parent.mkdir(parents=True)
    torch.save(source, file)
    return file


def run_load(parts: tuple[Backbone, FcosHead], **changes: Any) -> WeightReport:
    backbone, head = parts
    schema = {"detection": TaskInfo("detection", head.classes)}
    download = changes.pop("allow_download", True)
    heads: dict[str, Head] = changes.pop("heads", {"detection": head})
    return load_pretrained(backbone, heads, {**SETTINGS, **changes}, schema, download)


@pytest.mark.usefixtures("library")
def test_rows_of_known_classes_are_bit_equal_and_others_the_mean(source: dict[str, Tensor]) -> None:
    backbone, head = build_parts(["person", "car", "unicorn"], seed=2)
    report = run_load((backbone, head))
    loaded = as_state(backbone, {"detection": head})
    for name in (f"{SCORES}.weight", f"{SCORES}.bias"):
        assert torch.equal(loaded[name][:2], source[name][[1, 3]])
        assert torch.equal(loaded[name][2], source[name][[1, 2, 3, 5]].mean(0))  # without background and N/A
    others = [key for key in loaded if not key.startswith(SCORES)]
    assert all(torch.equal(loaded[key], source[key]) for key in others)
    assert sorted(report.matched) == sorted(others) and report.missing == [] and report.matched_fraction == 1.0
    assert report.reshaped == [
        f"{SCORES}.weight (7, 64, 3, 3) -> (3, 64, 3, 3), rows of known classes kept",
        f"{SCORES}.bias (7,) -> (3,), rows of known classes kept",
    ]
    line = "kept rows: person, car; fresh: unicorn (pretrained.map={unicorn: NAME} takes the rows of another class)"
    assert str(report).splitlines()[-1] == f"  {line}"


@pytest.mark.usefixtures("library")
def test_a_class_may_have_another_name(source: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    parts = build_parts(["auto", "dog"], seed=2)
    report = run_load(parts, map={"auto": "Car", "dog": None})
    loaded = as_state(parts[0], {"detection": parts[1]})[f"{SCORES}.bias"]
    rows = source[f"{SCORES}.bias"]
    assert loaded[0] == rows[3] and loaded[1] == rows[[1, 2, 3, 5]].mean()
    assert report.remarks[0].startswith("kept rows: auto; fresh: dog (")
    with pytest.raises(UserError, match=r"'\{auto: kar\}': the weights have no class kar; near it: car"):
        run_load(parts, map={"auto": "kar"})
    monkeypatch.setattr(FcosHead, "class_rows", lambda _: {f"{SCORES}.bias": ClassRows(offset=1)})
    with pytest.raises(UserError, match=r"'\{auto: background\}': the weights have no class background"):
        run_load(parts, map={"auto": "background"})
    with pytest.raises(UserError, match="the data has no class cart; near it: auto"):
        run_load(parts, map={"cart": "car"})


@pytest.mark.usefixtures("library")
def test_without_its_head_only_the_backbone_is_used(source: dict[str, Tensor]) -> None:
    for changes, words in (
        (
            {"heads": {"boxes": nn.Identity()}},
            "since fcos_resnet50_fpn has a head for detection and this run has boxes",
        ),
        ({"load": "backbone"}, "only the backbone is used (pretrained.load=backbone)"),
    ):
        backbone, head = build_parts(["person"], seed=2)
        fresh = as_state(backbone, {"detection": head})
        report = run_load((backbone, head), **changes)
        loaded = as_state(backbone, {"detection": head})
        assert all(torch.equal(loaded[key], (source if "backbone." in key else fresh)[key]) for key in loaded)
        assert report.matched_fraction == 1.0 and report.unexpected == [] and words in str(report)


@pytest.mark.usefixtures("library")
def test_a_second_head_begins_random() -> None:
    backbone, head = build_parts(["person"], seed=2)
    other = build_parts(["person"], seed=3)[1]
    fresh = {key: value.clone() for key, value in other.state_dict().items()}
    report = run_load((backbone, head), heads={"detection": head, "boxes": other})
    assert str(report).endswith("\n  heads.boxes begins random: fcos_resnet50_fpn has no head for it")
    assert report.matched_fraction == 1.0
    assert all(torch.equal(value, fresh[key]) for key, value in other.state_dict().items())


@pytest.mark.usefixtures("library")
def test_other_input_channels_are_adapted(source: dict[str, Tensor]) -> None:
    backbone, head = build_parts(["person"], seed=2, channels=1)
    report = run_load((backbone, head))
    first = next(key for key in source if source[key].ndim == 4)
    torch.testing.assert_close(backbone.state_dict()[first.removeprefix("backbone.")], source[first].sum(1, True))
    assert f"{first} (4, 3, 3, 3) -> (4, 1, 3, 3), adapted" in report.reshaped


def test_a_plan_downloads_nothing(library: Path) -> None:
    library.unlink()
    backbone, head = build_parts(["person", "unicorn"], seed=2)
    fresh = as_state(backbone, {"detection": head})
    report = run_load((backbone, head), allow_download=False)
    assert report.missing_download
    assert "(74 MB would be downloaded)\n  kept rows: person; fresh: unicorn (" in str(report)
    assert all(torch.equal(value, fresh[key]) for key, value in as_state(backbone, {"detection": head}).items())


def test_no_network(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.unlink()
    weights: Any = get_model_weights("fcos_resnet50_fpn").DEFAULT
    monkeypatch.setattr(torchvision, "find_weights", lambda name: weights)

    def refuse(url: str, *_: object, **__: object) -> None:
        raise URLError("no address for x.org")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    file = library.with_name("fcos_resnet50_fpn_coco-99b0c9b7.pth")
    with pytest.raises(UserError) as error:
        run_load(build_parts(["person"], seed=2))
    assert str(error.value) == (
        "pretrained.weights=default: the weights of fcos_resnet50_fpn could not be downloaded (<urlopen error no "
        "address for x.org>). On a machine with a network run `visiontune fetch pretrained=fcos_resnet50_fpn "
        "output=DIR`, copy DIR here and write pretrained.weights=DIR; or run `curl -L -O https://download.pytorch.org/models/"
        f"fcos_resnet50_fpn_coco-99b0c9b7.pth`, and copy the file to {file}"
    )


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.usefixtures("library")
def test_weights_of_a_file(suffix: str, prefix: str, tmp_path: Path, source: dict[str, Tensor]) -> None:
    path = tmp_path / f"mine{suffix}"
    state = {prefix + key: value for key, value in source.items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save({"model": state, "epoch": 3}, path)
    backbone, head = build_parts(["person"], seed=2)
    report = run_load((backbone, head), weights=str(path))
    assert torch.equal(
        head.state_dict()[SCORES.removeprefix("heads.detection.") + ".bias"], source[f"{SCORES}.bias"][1:2]
    )
    assert report.source == str(path) and report.matched_fraction == 1.0


@pytest.mark.usefixtures("library")
def test_a_file_of_other_classes(tmp_path: Path) -> None:
    backbone, head = build_parts(["background", "cat", "car"], seed=3)
    state = as_state(backbone, {"detection": head})
    torch.save(state, tmp_path / "a.pth")
    parts = build_parts(["car"], seed=2)
    with pytest.raises(UserError, match=r"weight has 3 rows, and 7 are expected for 7 classes; write .*classes=\["):
        run_load(parts, weights=str(tmp_path / "a.pth"))
    run_load(parts, weights=str(tmp_path / "a.pth"), classes=["background", "cat", "car"])
    assert torch.equal(as_state(parts[0], {"detection": parts[1]})[f"{SCORES}.bias"], state[f"{SCORES}.bias"][2:])


@pytest.mark.usefixtures("library")
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(tmp_path: Path, source: dict[str, Tensor]) -> None:
    backbone, head = build_parts(["person"], seed=2)
    fresh = as_state(backbone, {"detection": head})
    backbone_only = {key: value for key, value in source.items() if key.startswith("backbone.")}
    cases: list[tuple[Callable[[Path], object], str]] = [
        (
            lambda path: torch.save(dict.fromkeys("abc", torch.zeros(99)), path),
            "0% of the weights have a place in the model, at least 90% must",
        ),
        (
            lambda path: torch.save(backbone_only, path),
            r"0% of heads\.detection is in the weights, .* only in the model: heads.detection",
        ),
        (lambda path: torch.save({"backbone.mean": torch.zeros(3)}, path), "write weights_from=RUN"),
        (lambda path: path.mkdir(), "this folder has no file of weights .* write weights_from="),
        (lambda path: path.write_bytes(b"x"), "pretrained.weights=.*not a readable checkpoint"),
        (lambda path: torch.save({"a": 1}, path), "pretrained.weights=.*holds no tensors"),
        (lambda path: None, "pretrained.weights=.*no such file"),
    ]
    for number, (write, words) in enumerate(cases):
        path = tmp_path / f"{number}.pth"
        write(path)
        with pytest.raises(UserError, match=words):
            run_load((backbone, head), weights=str(path))
    parts = build_parts(["person"], seed=2, width=96)
    with pytest.raises(UserError, match=r"leave out options of heads\.detection and backbone that change its layers"):
        run_load(parts)
    loaded = as_state(backbone, {"detection": head})
    assert all(torch.equal(value, fresh[key]) for key, value in loaded.items())


def test_names_of_models() -> None:
    with pytest.raises(UserError, match=r"no such model; near it: .*fcos_resnet50_fpn"):
        torchvision.find_weights("fcos_resnet50")
    assert torchvision.find_weights("fcos_resnet50_fpn").meta["categories"][1] == "person"
    assert len(torchvision.find_weights("lraspp_mobilenet_v3_large").meta["categories"]) == 21
