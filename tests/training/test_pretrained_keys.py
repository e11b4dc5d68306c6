"""`pretrained` and the rest of a config: its head, its backbone, and other sources of weights."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from visiontune.config.check import check, check_closed
from visiontune.config.compose import train_config
from visiontune.config.derive import derive
from visiontune.config.jobs import check_jobs
from visiontune.config.launch import Launch
from visiontune.errors import UserError
from visiontune.runs import RunDirectory
from visiontune.training.load import load_model, open_run
from visiontune.training.resolve import resolve
from visiontune.training.trusted import check_trusted

MODEL = {
    "name": "lraspp_mobilenet_v3_large",
    "library": "torchvision",
    "task": "segmentation",
    "backbone": "small_cnn",
    "weights": "default",
    "load": "all",
    "map": None,
    "classes": None,
    "min_matched": 0.9,
}


def compose(*overrides: str, **settings: Any) -> DictConfig:
    """As with a file in `configs/pretrained/`."""
    changes = {"pretrained": MODEL | settings, "heads.segmentation.channels": 32, "backbone.library": "auto"}
    return derive(train_config(["backbone=small_cnn", *overrides]), changes)


def test_a_head_that_heads_does_not_choose_is_dropped() -> None:
    cfg = check("train", compose("heads=classification"))
    assert list(cfg.heads) == ["classification"]
    both = check("train", compose("heads=[segmentation,classification]", "data=digit_scenes"))
    assert list(both.heads) == ["segmentation", "classification"] and both.heads.segmentation.channels == 32
    with pytest.raises(UserError, match="expected the name of a head"):  # nothing else may lack its class
        check("train", compose("heads=classification", task="detection"))


@pytest.mark.parametrize(
    ("overrides", "launch", "settings", "message"),
    [
        (
            ["backbone.name=resnet18"],
            Launch(),
            {},
            "backbone.name=resnet18: pretrained=lraspp_mobilenet_v3_large has the backbone small_cnn of torchvision; "
            "leave out backbone.name=resnet18, or write pretrained=none",
        ),
        ([], Launch(backbone="swin_t"), {}, "backbone=swin_t: pretrained=lraspp_mobilenet_v3_large has the backbone"),
        ([], Launch(backbone="small_cnn"), {"library": "timm"}, "pretrained.library=timm: expected torchvision"),
        (
            ["backbone.weights=default"],
            Launch(),
            {},
            "backbone.weights=default: pretrained=lraspp_mobilenet_v3_large fills the backbone too; leave out "
            "backbone.weights, or write pretrained.weights=null",
        ),
        ([], Launch(), {"min_matched": 2}, "pretrained.min_matched=2: expected a fraction from 0 to 1, got 2"),
        ([], Launch(), {"aliases": {}}, "pretrained.aliases: unknown key; write one of"),
    ],
)
def test_what_does_not_fit_is_refused(
    overrides: list[str], launch: Launch, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        resolve(compose(*overrides, **settings), launch)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["heads=classification", "backbone.norm=null", "pretrained.weights=null"], (96, "squash")),
        (["heads=classification", "data.image_size=300"], (300, "squash")),
    ],
)
def test_the_image_size_of_a_model_is_for_its_head(overrides: list[str], expected: tuple[int, str]) -> None:
    keys = ["data=digit_scenes", "pretrained=retinanet_resnet50_fpn", *overrides]
    data = resolve(train_config(keys), Launch(overrides=tuple(keys))).data
    assert (data.image_size, data.resize) == expected


def test_a_mask_rcnn_is_a_detector_without_masks() -> None:
    keys = ["data=digit_scenes", "pretrained=maskrcnn_resnet50_fpn_v2", "heads=detection"]
    cfg = resolve(train_config(keys), Launch(overrides=tuple(keys)))
    assert list(cfg.heads) == ["detection"] and cfg.pretrained.task == "detection"
    boxes = train_config([*keys[::2], "pretrained=fasterrcnn_resnet50_fpn_v2"])
    assert cfg.heads.detection == boxes.heads.detection and cfg.data.image_size == 1056


def test_the_backbone_alone_may_have_other_weights() -> None:
    cfg = resolve(compose("backbone.weights=default", weights=None), Launch())
    assert cfg.backbone.weights == "default" and cfg.pretrained.weights is None


def test_a_pretrained_backbone_has_a_linear_probe() -> None:
    assert resolve(compose("heads=classification"), Launch()).probe is True
    assert resolve(compose("heads=classification", weights=None), Launch()).probe is False
    assert resolve(compose("heads=segmentation", "data=digit_scenes"), Launch()).probe is False


def test_a_sweep_over_models(tmp_path: Path) -> None:
    """Each job has the options of its model; the head without a model has its own."""
    (tmp_path / "pretrained").mkdir()
    for name, task, channels in (("a", "segmentation", 32), ("b", "detection", 64)):
        content = {
            "pretrained": MODEL | {"task": task},
            "heads": {task: {"channels": channels}},
            "backbone": {"name": "small_cnn", "weights": None},
        }
        text = yaml.safe_dump(content)
        (tmp_path / "pretrained" / f"{name}.yaml").write_text(f"# @package _global_\n{text}")
    jobs = check_jobs("train", ["pretrained=none,a,b", "heads=segmentation", "data=digit_scenes"], tmp_path)
    configs = [check("train", cfg) for _, cfg, _ in jobs]
    assert [cfg.pretrained and cfg.pretrained.task for cfg in configs] == [None, "segmentation", "detection"]
    assert [dict(cfg.heads).keys() for cfg in configs] == [{"segmentation"}] * 3
    assert [cfg.heads.segmentation.channels for cfg in configs] == [128, 32, 128]


def test_a_sweep_with_another_backbone_starts_no_job() -> None:
    keys = ["pretrained=fcos_resnet50_fpn", "heads=detection", "data=digit_scenes"]
    with pytest.raises(UserError) as error:
        check_jobs("train", [*keys, "backbone.name=resnet50,resnet18"], None)
    lines = str(error.value).splitlines()
    assert lines[0] == "1 of 2 jobs are wrong, so none is started:"
    assert lines[1].startswith(
        "  backbone.name=resnet18: pretrained=fcos_resnet50_fpn has the backbone resnet50 of tor"
    )


def test_names_are_text() -> None:
    cfg = check("train", compose(map="{auto: car, 'b:c': null, 1: yes}", classes=["background", 7]))
    assert cfg.pretrained.map == {"auto": "car", "b:c": None, "1": "yes"}
    assert cfg.pretrained.classes == ["background", "7"]
    check_closed(cfg)


def test_weights_of_a_run_replace_pretrained_weights(run: RunDirectory) -> None:
    cfg = resolve(compose(f"weights_from={run.path}", "backbone.name=resnet18"), Launch())
    assert cfg.pretrained is None and cfg.backbone.weights is None and cfg.backbone.name == "small_cnn"
    with pytest.raises(UserError, match=r"^pretrained.map=\{a: b\} has no effect with weights_from=.*leave it out"):
        resolve(compose(f"weights_from={run.path}"), Launch(overrides=("pretrained.map={a: b}",)))


def test_reading_a_run_loads_and_downloads_nothing(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run from elsewhere with a pretrained model."""
    shutil.copytree(run.path, tmp_path / "copy")
    copy = RunDirectory.open(tmp_path / "copy")
    copy.write_config(derive(copy.read_config(), {"pretrained": MODEL | {"name": "no_such_model"}}))
    monkeypatch.setattr("visiontune.training.build.load_pretrained", lambda *_: pytest.fail("weights are loaded"))
    opened, cfg = open_run(str(copy.path))
    model, _ = load_model(opened, cfg)
    assert sum(parameter.numel() for parameter in model.parameters()) > 0
    for settings in ({"weights": {"_target_": "os.system"}}, {"map": {"a": {"_target_": "os.system"}}}):
        with pytest.raises(UserError, match="outside the places for classes; write trust=true"):
            check_trusted(OmegaConf.create({"pretrained": MODEL | settings}))
