"""`resolve` sets what depends on the data, the machine and the launch; afterwards a config is read-only."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ReadonlyConfigError
from running import TINY

from visiontune.config.compose import train_config
from visiontune.config.derive import derive
from visiontune.config.devices import count_devices
from visiontune.config.launch import Launch
from visiontune.errors import UserError
from visiontune.runs import RunDirectory
from visiontune.training.resolve import candidate_configs, resolve


def test_a_resolved_config_is_read_only(config: Callable[..., DictConfig]) -> None:
    cfg = config()
    with pytest.raises(ReadonlyConfigError):
        cfg.seed = 1
    with pytest.raises(ReadonlyConfigError):
        cfg.optimizer.lr = 1.0
    other = derive(cfg, {"optimizer.lr": 0.25, "callbacks": {}}, without=["sweep_dir"])
    assert other.optimizer.lr == 0.25 and cfg.optimizer.lr == 5e-4
    assert list(other.callbacks) == [] and "sweep_dir" not in other and "sweep_dir" in cfg


def test_values_that_depend_on_data_and_launch(tiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiles.parent)
    photos = train_config([*TINY, "data=image_folder", "data.root=tiles", "sweep_dir=sweeps"])
    cfg = resolve(photos, Launch(data="image_folder"))
    assert (cfg.name, cfg.data.root, cfg.test, cfg.run_dir) == ("tiles", str(tiles), True, None)
    assert cfg.probe is False and cfg.trainer.devices == 1  # small_cnn is not pretrained
    job = resolve(photos, Launch(data="image_folder", job=3))
    assert (job.test, job.run_dir) == (False, "sweeps/003")
    assert resolve(derive(photos, {"data.folds": 5}), Launch(job=0)).test is True
    assert resolve(train_config([]), Launch(data="digits")).probe is True
    assert resolve(train_config([]), Launch(data="digits")).name == "digits"
    assert resolve(train_config(["backbone.weights=null"]), Launch()).probe is False
    assert resolve(train_config(["data=digit_scenes", "heads=detection"]), Launch()).probe is False


@pytest.mark.parametrize("accelerator", ["auto", "gpu"])
def test_more_devices_than_gpus_are_refused(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    trainer = OmegaConf.create({"accelerator": accelerator, "devices": 4, "strategy": "ddp"})
    with pytest.raises(UserError, match=r"^trainer\.devices=4: expected at most 2, the GPUs of this machine"):
        count_devices(trainer)
    assert count_devices(OmegaConf.merge(trainer, {"devices": -1})) == 2  # type: ignore[arg-type]
    assert count_devices(OmegaConf.merge(trainer, {"accelerator": "cpu"})) == 4  # type: ignore[arg-type]


def test_backbone_keys_of_the_command_change_the_backbone_of_another_run(run: RunDirectory) -> None:
    cfg = train_config([*TINY, f"weights_from={run.path}", "backbone.widths=[16,32]", "backbone.depth=3"])
    backbone = resolve(cfg, Launch(backbone_keys=("depth",))).backbone
    assert (backbone.depth, list(backbone.widths), backbone.weights) == (3, [4, 8], None)


def test_epochs_by_rule() -> None:
    cfg = resolve(train_config(["strategy=bit_hyperrule"]), Launch())
    assert cfg.epochs == cfg.trainer.max_epochs == 25  # 500 steps of 20
    with pytest.raises(UserError, match="epochs=null: only strategy=bit_hyperrule"):
        resolve(train_config(["epochs=null"]), Launch())


def test_candidates_keep_the_command_line() -> None:
    overrides = ["optimizer.lr=0.01", "search=strategy", "search.candidates=[full,bit_hyperrule]"]
    launch = Launch(overrides=tuple(overrides), sets_lr=True)
    cfg = resolve(train_config(overrides), launch)
    assert cfg.search.lr_range_test is False
    configs = candidate_configs(cfg, launch)
    assert {name: c.strategy._target_.split(".")[-1] for name, c in configs.items()} == {
        "full": "Full",
        "bit_hyperrule": "BitHyperRule",
    }
    assert all(c.optimizer.lr == 0.01 and c.search is None for c in configs.values())
    assert configs["bit_hyperrule"].epochs == 25
