"""A `visiontune compress` that gets SIGKILL in any step and is started again equals an uninterrupted one."""

import json
from pathlib import Path

import pytest
import torch
from killing import run_killed
from running import FEW, TINY, Command

from visiontune.runs import RunDirectory

PRUNE = [
    "recipe=prune",
    "recipe.steps.prune.rounds=2",
    "recipe.steps.prune.multiple=1",
    "recipe.steps.prune.macs=0.4",
]
INT8 = ["+recipe.steps.int8._target_=visiontune.compression.Int8", "+recipe.steps.int8.max_drop=100", "compile=false"]
STEPS = ["0_prune_round_1", "0_prune_round_1_trained", "0_prune", "1_train", "2_int8"]
# Moment of each kill, for which time it occurs in its process, and how many runs are finished by then. A training has 4
# batches; the one that is killed in its third batch starts again from the checkpoint before its first.
KILLS = [("report", 1, 0), ("batch", 3, 1), ("batch", 6, 3), ("quantized", 1, 4), ("table", 1, 5)]


@pytest.mark.slow
@pytest.mark.usefixtures("brief_measurements")
def test_a_recipe_that_is_killed_in_every_step_resumes_exactly(command: Command, tmp_path: Path) -> None:
    run = command("train", *TINY, FEW, "data.batch_size=16", "strategy=full", "optimizer.lr=0.01").run
    arguments = ["compress", f"run={run.path}", *PRUNE, *INT8]
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    command(*arguments, f"output={uninterrupted}")
    for moment, count, finished in KILLS:
        output = tmp_path / "output.txt"
        assert run_killed(moment, count, [*arguments, f"output={resumed}"], output) == -9, output.read_text()
        states = [RunDirectory(resumed / step).read_status()["status"] == "finished" for step in STEPS]
        assert states == [True] * finished + [False] * (len(STEPS) - finished), moment
    command(*arguments, f"output={resumed}")
    for step in STEPS:
        runs = RunDirectory(resumed / step), RunDirectory(uninterrupted / step)
        metrics = [json.loads(run.metrics.read_text()) for run in runs]
        assert metrics[0] == metrics[1], step
        weights = [torch.load(run.checkpoint("best"), weights_only=True)["state_dict"] for run in runs]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    file = "2_int8/export/model.onnx"
    assert (resumed / file).read_bytes() == (uninterrupted / file).read_bytes()
    assert (resumed / "table.csv").is_file()
