"""What may stand in each slot of a run's config, unless `trust=true` is typed: decided by name, before any import."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from visiontune.config.compose import config_dir
from visiontune.errors import UserError
from visiontune.training.slots import SLOTS as SLOTS_OF_CONFIG
from visiontune.training.slots import UnknownName
from visiontune.training.trusted import check_trusted

FILE = "written-by-a-foreign-run"
SLOTS = (
    "optimizer",
    "scheduler",
    "strategy",
    "heads.classification",
    "heads.classification.loss",
    "heads.classification.metrics.kappa.metric",
    "technique.ema",
    "callbacks.early_stopping",
    "logger.mine",
    "trainer",
    "trainer.profiler",
    "trainer.plugins",
    "data.reader",
    "data.dataset",
    "data.dataset.train",
    "data.datamodule",
    "augment.crop",
    "backbone.act_layer",
    "distill.teacher",
    "search",
    "pretrained",
)
WRITE = {"_target_": "visiontune.compare.main", "arguments": ["RUN", "--csv", FILE]}
FORMS: dict[str, Any] = {
    "verb": WRITE,
    "main": {"_target_": "visiontune.__main__.run"},
    "args": {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": [FILE]}]},
    "partial": {"_target_": "visiontune.runs.files.write_json", "_partial_": True, "path": FILE, "value": 1},
    "convert": {"_target_": "torch.save", "_convert_": "all", "obj": 1, "f": FILE},
    "recursive": {"_target_": "torch.hub.load", "_recursive_": False, "repo_or_dir": {"_target_": "os.system"}},
    "re-exported": {"_target_": "visiontune.optim.schedulers.math.log", "x": 1},
    "library": {"_target_": "torch.utils.collect_env.run", "command": f"touch {FILE}"},
    "nested": {"inner": {"deeper": WRITE}},
    "listed": {"inner": [1, [WRITE]]},
    "interpolated": {"_target_": "${name}", "arguments": ["RUN", "--csv", FILE]},
    "environment": {"inner": "${oc.env:HOME}"},
    "decoded": {"inner": "${oc.decode:'{_target_: os.system}'}"},
}


@pytest.fixture(scope="module")
def run_config(config: Callable[..., DictConfig]) -> dict[str, Any]:
    """The config that a run would save."""
    return OmegaConf.to_container(config(), resolve=True)  # type: ignore[return-value]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("slot", SLOTS)
def test_each_slot_refuses_what_does_not_belong_there(slot: str, form: str, run_config: dict[str, Any]) -> None:
    cfg = OmegaConf.create(run_config)
    check_trusted(cfg)
    before = OmegaConf.select(cfg, slot)
    merge = "_target_" not in FORMS[form] and OmegaConf.is_dict(before)
    OmegaConf.update(cfg, slot, FORMS[form], merge=merge, force_add=True)
    with pytest.raises(UserError, match="trust=true"):
        check_trusted(cfg)
    assert not Path(FILE).exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins.getattr",
        "functools.partial",
        "hydra.utils.get_method",
        "torch.optim.Adam.load_state_dict",
        "torch.optim.lr_scheduler.LambdaLR",
        "torch.optim.adam.torch.load",
        "torch.optim.Adam\n",
        "torch.optim..Adam",
        "timm.loss.cross_entropy.torch.hub.load",
        "timm.optim.create_optimizer",
        "torchmetrics.image.arniqa.ARNIQA",
        "torchmetrics.image.LearnedPerceptualImagePatchSimilarity",
        "torchmetrics.multimodal.CLIPScore",
        "visiontune.nodes.build",
        "visiontune.data.own_module.build_own_module",
        "visiontune.data.readers.python.read.__globals__",
        "visiontune.callbacks.checkpoints.AtomicCheckpointIO",
        "visiontune.models.heads.extra_metrics.build_extra_metrics",
    ],
)
def test_no_slot_allows_what_calls_imports_or_downloads(name: str) -> None:
    for slot in SLOTS_OF_CONFIG:
        with suppress(UnknownName):
            assert not slot.allows(name)


@pytest.mark.parametrize("key", ["_args_", "_mode_", "_partial_", "_convert_", "_recursive_"])
def test_special_keys_are_switches(key: str, run_config: dict[str, Any]) -> None:
    cfg = OmegaConf.create(run_config)
    for value in ([FILE], "x"):
        OmegaConf.update(cfg, f"optimizer.{key}", value, force_add=True)
        with pytest.raises(UserError, match=rf"optimizer.{key}=.* no plain value"):
            check_trusted(cfg)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("logger.csv", {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "out"}),
        ("logger.csv", {"_target_": "visiontune.loggers.CSVLogger", "save_dir": "out"}),
        ("logger.m", {"_target_": "visiontune.loggers.MLFlowLogger", "tracking_uri": "http://example.org"}),
        ("logger.m", {"_target_": "visiontune.loggers.MLFlowLogger", "tracking_uri": "sqlite:////elsewhere/a.db"}),
        ("logger.w", {"_target_": "visiontune.loggers.WandbLogger", "settings": {"base_url": "x"}}),
        ("logger.w", {"_target_": "visiontune.loggers.WandbLogger", "entity": "somebody"}),
        ("logger.w", {"_target_": "visiontune.loggers.WandbLogger", "config": "secrets.yaml"}),
        ("logger.w", {"_target_": "visiontune.loggers.WandbLogger", "save_code": True}),
        ("callbacks.c", {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "out"}),
        ("callbacks.c", {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint"}),
        ("callbacks.c", {"_target_": "lightning.pytorch.callbacks.Timer", "duration": "../x"}),
        ("callbacks.c", {"_target_": "visiontune.callbacks.History", "path": "metrics.csv"}),
        ("callbacks.c", {"_target_": "visiontune.callbacks.Checkpoints", "run": "x"}),
        ("trainer.profiler", {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "dirpath": "out"}),
        ("trainer.profiler", {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "filename": "a/b"}),
        ("trainer.default_root_dir", "/etc"),
        ("trainer.default_root_dir", ["~"]),
        (
            "heads.classification.metrics",
            {"f": {"metric": {"_target_": "torchmetrics.image.kid.KernelInceptionDistance"}}},
        ),
        ("backbone.checkpoint_path", "weights.pth"),
        ("backbone.pretrained", True),
        ("backbone.pretrained_cfg", {"hf_hub_id": "a/b"}),
        ("backend", "/elsewhere/model.onnx"),
        ("data.dataset", {"_target_": "birds.Birds"}),
    ],
)
def test_nothing_leads_outside_the_run(key: str, value: Any, run_config: dict[str, Any]) -> None:
    cfg = OmegaConf.create(run_config)
    OmegaConf.update(cfg, key, value, force_add=True)
    with pytest.raises(UserError, match="write trust=true if you know where the run comes from"):
        check_trusted(cfg, loggers=True)
    check_trusted(cfg, trust=True, loggers=True)


@pytest.mark.parametrize("name", ["/elsewhere/x", "../x", "a b", "a/b", ""])
def test_the_name_of_a_task_is_a_word(name: str, run_config: dict[str, Any]) -> None:
    cfg = OmegaConf.create(run_config)
    cfg.heads[name] = cfg.heads.pop("classification")
    with pytest.raises(UserError, match="the name of a task is a word"):
        check_trusted(cfg)


def test_what_belongs_in_a_slot_passes(run_config: dict[str, Any], tmp_path: Path) -> None:
    cfg = OmegaConf.create(run_config)
    kappa = {"_target_": "torchmetrics.wrappers.MinMaxMetric", "base_metric": {"_target_": "torchmetrics.CohenKappa"}}
    for key, value in {
        "optimizer._target_": "timm.optim.Lion",
        "heads.classification.loss": {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.1},
        "heads.classification.metrics": {"kappa": {"metric": kappa, "direction": "max"}},
        "callbacks.monitor": {"_target_": "lightning.pytorch.callbacks.LearningRateMonitor", "_convert_": "all"},
        "trainer.profiler": {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "filename": "times"},
        "callbacks.early_stopping.monitor": "val/classification/accuracy",
        "data.root": "/somewhere/else",
    }.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    check_trusted(cfg, folder=tmp_path, loggers=True)
    cfg.trainer.profiler.dirpath = str(tmp_path / "profile")
    check_trusted(cfg, folder=tmp_path)


NOT_OF_A_RUN = ("hydra", "recipe", "local", "sweep", "launcher")


def test_every_shipped_option_passes() -> None:
    """Checked as files, since composing each takes ten seconds."""
    files = [path for path in config_dir().glob("*/*.yaml") if path.parent.name not in NOT_OF_A_RUN]
    assert len(files) > 90
    for path in files:
        text = path.read_text()
        content = yaml.safe_load(text) or {}
        content.pop("defaults", None)
        cfg = content if "@package _global_" in text else {path.parent.name: content}
        plain = json.loads(json.dumps(cfg).replace("${", "{"))
        if path.parent.name == "logger":  # whose address is that of this project
            check_trusted(OmegaConf.create(plain))
        else:
            check_trusted(OmegaConf.create(plain), loggers=True)
