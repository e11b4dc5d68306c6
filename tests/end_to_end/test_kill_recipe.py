"""SIGKILL within any step of a real `visiontune compress`, then the same command: it ends as if nothing had been."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from running import TINY, Command

from visiontune.runs import RunDirectory

SMALLER = [
    "recipe=prune",
    "recipe.steps.prune.rounds=2",
    "recipe.steps.prune.multiple=1",
    "recipe.steps.prune.macs=0.4",
]
INT8 = ["+recipe.steps.int8._target_=visiontune.compression.Int8", "+recipe.steps.int8.max_drop=100", "compile=false"]
STEPS = ["0_prune_round_1", "0_prune_round_1_trained", "0_prune", "1_train", "2_int8"]
# What is killed as it comes for which time, and how many of the runs are finished by then. A training has 4 batches.
KILLS = [("report", 1, 0), ("batch", 3, 1), ("batch", 6, 3), ("quantized", 1, 4), ("table", 1, 5)]


@pytest.fixture(scope="module")
def run(command: Command) -> RunDirectory:
    return command("train", *TINY, "data.batch_size=16", "strategy=full", "optimizer.lr=0.01").run


@pytest.fixture(scope="module")
def whole(run: RunDirectory, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uninterrupted."""
    folder = tmp_path_factory.mktemp("whole")
    command("compress", f"run={run.path}", *SMALLER, *INT8, f"output={folder}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "count", "finished"), KILLS)
def test_killed_and_continued(
    moment: str, count: int, finished: int, run: RunDirectory, whole: Path, tmp_path: Path
) -> None:
    arguments = ["compress", f"run={run.path}", *SMALLER, *INT8, f"output={tmp_path}"]
    script = [sys.executable, str(Path(__file__).with_name("killing.py")), moment, str(count)]
    killed = subprocess.run([*script, *arguments], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stdout + killed.stderr
    states = [RunDirectory(tmp_path / step).read_status()["status"] == "finished" for step in STEPS]
    assert states == [True] * finished + [False] * (len(STEPS) - finished)
    subprocess.run([sys.executable, "-m", "visiontune", *arguments], check=True, capture_output=True)
    for step in STEPS:
        own, other = RunDirectory(tmp_path / step), RunDirectory(whole / step)
        assert json.loads(own.metrics.read_text()) == json.loads(other.metrics.read_text()), step
        weights = [torch.load(one.checkpoint("best"), weights_only=True)["state_dict"] for one in (own, other)]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert (tmp_path / "2_int8/export/model.onnx").read_bytes() == (whole / "2_int8/export/model.onnx").read_bytes()
    assert (tmp_path / "table.csv").is_file()
