"""What TensorBoard shows of the jobs of a sweep: readable names, the keys that vary first, and groups of seeds."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from visiontune.loggers.base import LoggedRun
from visiontune.loggers.build import open_loggers
from visiontune.loggers.tensorboard import MAX_NAME, TensorBoardLogger, clean, find_folder
from visiontune.runs import RunDirectory
from visiontune.runs.files import write_json

TENSORBOARD = {"tensorboard": {"_target_": "visiontune.loggers.TensorBoardLogger", "_partial_": True}}
PARAMS = {"strategy": "Full", "optimizer.lr": 0.01, "seed": 1, "augment.flip": True}


def read_hparams(folder: Path) -> tuple[Any, Any]:
    """The description of the columns, and that of the run."""
    board = EventAccumulator(str(folder))
    board.Reload()
    contents = board.PluginTagToContent("hparams")
    columns, run = (
        HParamsPluginData.FromString(contents[f"_hparams_/{name}"]) for name in ("experiment", "session_start_info")
    )
    return columns.experiment, run.session_start_info


def test_the_job_of_a_sweep_has_a_readable_name_and_a_group(tmp_path: Path) -> None:
    sweep = tmp_path / "first"
    run = RunDirectory.create(sweep / "003")
    (sweep / "sweep.yaml").write_text(yaml.safe_dump({"keys": ["strategy", "optimizer.lr", "augment", "seed"]}))
    overrides = ["data=digits", "strategy=full", "optimizer.lr=0.01", "augment@augment=none", "seed=1"]
    write_json(run.environment, {"overrides": overrides})
    cfg = OmegaConf.create({"run_dir": str(run.path), "sweep_dir": str(sweep), "logger": TENSORBOARD})
    with open_loggers(cfg, run.path) as (logger,):
        assert isinstance(logger, TensorBoardLogger)
        assert logger.run.name == "first/003 strategy=full optimizer.lr=0.01 augment@augment=none seed=1"
        logger.add_hparams_row(PARAMS, {"best/val/x/accuracy": 0.5})
    (folder,) = run.tensorboard.iterdir()
    assert find_folder(LoggedRun(run.path, "resumed")) == f"tensorboard/{folder.name}"
    assert folder.name == "strategy=full optimizer.lr=0.01 augment_augment=none seed=1"
    columns, row = read_hparams(folder)
    assert {info.name for info in columns.hparam_infos if info.differs} == {"strategy", "optimizer.lr", "augment"}
    assert {info.name for info in columns.hparam_infos} == {*PARAMS, "augment"}
    assert [info.name.tag for info in columns.metric_infos] == ["best/val/x/accuracy"]
    assert row.group_name == "strategy=full optimizer.lr=0.01 augment=none (first)"
    values = {key: getattr(value, value.WhichOneof("kind")) for key, value in row.hparams.items()}
    assert values == PARAMS | {"strategy": "full", "augment": "none"}


def test_another_run_is_in_its_folder_and_in_no_group(tmp_path: Path) -> None:
    logger = TensorBoardLogger(LoggedRun(tmp_path, "a"))
    logger.add_hparams_row(PARAMS, {"best/val/x/accuracy": 0.5})
    columns, row = read_hparams(tmp_path / "tensorboard")
    assert not any(info.differs for info in columns.hparam_infos)
    assert row.group_name == "" and row.hparams["strategy"].string_value == "Full"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("data.root=/photos/a:b", "data.root=_photos_a_b"),
        ("note='é?'. ", "note=____"),
        ("x" * 200, "x" * MAX_NAME),
    ],
)
def test_names_of_folders(text: str, name: str) -> None:
    assert clean(text) == name
