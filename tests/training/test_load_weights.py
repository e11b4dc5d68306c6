"""`weights_from=` with other classes: the rows of classes that both runs have, and everything else, are loaded."""

from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from visiontune.config.compose import train_config
from visiontune.config.derive import derive
from visiontune.config.launch import Launch
from visiontune.data import TaskInfo
from visiontune.models.finetuner import FineTuner
from visiontune.runs import RunDirectory
from visiontune.training.build import build_finetuner
from visiontune.training.load_weights import load_weights
from visiontune.training.resolve import resolve

OLD, NEW = ["car", "person", "dog"], ["dog", "unicorn", "Person", "car"]


def compose(task: str, *overrides: str) -> DictConfig:
    keys = ["data=digit_scenes", "backbone=small_cnn", "backbone.widths=[8,8,8,8]", "trainer=cpu", f"heads={task}"]
    return resolve(train_config([*keys, f"heads.{task}.channels=64", *overrides]), Launch())


def build(cfg: DictConfig, classes: list[str], seed: int) -> FineTuner:
    torch.manual_seed(seed)
    return build_finetuner(cfg, {task: TaskInfo(task, classes) for task in cfg.heads}, epochs=1)[0]


def save(model: FineTuner, path: Path) -> RunDirectory:
    (path / "checkpoints").mkdir(parents=True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)  # no two rows are equal
    torch.save({"visiontune": model.description, "state_dict": model.state_dict()}, path / "checkpoints" / "best.ckpt")
    return RunDirectory(path)


def split_rows(tensor: Tensor, groups: int, offset: int, classes: int) -> Tensor:
    """`tensor` as (groups, offset + classes, ...)."""
    return tensor.view(groups, offset + classes, -1)


@pytest.mark.parametrize(
    ("task", "overrides"),
    [("detection", ["heads.detection.detector=retinanet"]), ("instances", []), ("segmentation", [])],
)
def test_rows_of_known_classes_and_all_other_layers_are_loaded(task: str, overrides: list[str], tmp_path: Path) -> None:
    cfg = compose(task, *overrides)
    source, model = build(cfg, OLD, seed=0), build(cfg, NEW, seed=1)
    run = save(source, tmp_path / "a")
    old = source.state_dict()
    report = load_weights(model, run, min_matched=0.5)
    new = model.state_dict()

    layouts = {f"heads.{task}.{name}": layout for name, layout in model.heads[task].class_rows().items()}
    assert layouts and all(torch.equal(new[key], old[key]) for key in new if key not in layouts)
    for key, layout in layouts.items():
        before, after = (
            split_rows(state[key], layout.groups, layout.offset, len(names))
            for state, names in ((old, OLD), (new, NEW))
        )
        first = layout.offset
        assert torch.equal(after[:, :first], before[:, :first])
        for index, entry in ((0, 2), (2, 1), (3, 0)):
            assert torch.equal(after[:, first + index], before[:, first + entry])
        assert torch.equal(after[:, first + 1], before[:, first:].mean(1))
        assert (
            f"{key} {tuple(old[key].shape)} -> {tuple(new[key].shape)}, rows of known classes kept" in report.reshaped
        )
    assert report.remarks == ["kept rows: dog, Person, car; fresh: unicorn"]
    assert report.missing == report.unexpected == [] and report.matched_fraction == 1.0
    assert set(report.matched) == new.keys() - layouts.keys()


def test_other_anchors_leave_the_class_layer_random(tmp_path: Path) -> None:
    """Twice the anchors and half the classes have the shape of the source by coincidence."""
    cfg = compose("detection", "heads.detection.detector=retinanet")
    source = build(cfg, ["a", "b", "c", "d"], seed=0)
    sizes = [[side * factor for factor in (1, 1.2, 1.4, 1.6, 1.8, 2)] for side in (32, 64, 128, 256)]
    model = build(derive(cfg, {"heads.detection.anchor_sizes": sizes}), ["a", "b"], seed=1)
    initial = {key: value.clone() for key, value in model.state_dict().items()}
    report = load_weights(model, save(source, tmp_path / "a"), min_matched=0.5)
    key = "heads.detection.detector.model.head.classification_head.cls_logits.weight"
    assert torch.equal(model.state_dict()[key], initial[key])
    assert any(line.startswith(f"{key} ") and line.endswith("initialised") for line in report.reshaped)
    assert key not in report.missing
