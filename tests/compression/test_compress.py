"""A recipe makes a run from a run step by step, and resumes where it was stopped."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from running import FEW, Command

from visiontune.compress import write_recipe
from visiontune.compression import Int8, TrainStep
from visiontune.compression.step import metric_drop, source_config
from visiontune.compression.train_step import merge_overrides, substitute
from visiontune.config.derive import derive
from visiontune.errors import UserError
from visiontune.runs import RunDirectory


@pytest.fixture(scope="module")
def run(command: Command, tiny: list[str]) -> RunDirectory:
    return command("train", *tiny, FEW, "seed=3", "optimizer.lr=1e-3").run


def test_another_option_of_a_group_removes_the_keys_of_the_old_one() -> None:
    before = ["strategy=gradual_unfreeze", "strategy.head_epochs=2", "optimizer.lr=1e-3", "run_dir=/a", "epochs=4"]
    assert merge_overrides(before, ["strategy=full", "epochs=2"]) == ["optimizer.lr=1e-3", "strategy=full", "epochs=2"]
    assert merge_overrides(before, ["optimizer.lr=1"]) == [*before[:2], "epochs=4", "optimizer.lr=1"]
    assert merge_overrides(["trainer.max_epochs=50"], ["epochs=10"]) == ["epochs=10"]  # two names of one key
    rounding = "+callbacks.quantization_aware._target_=visiontune.callbacks.QuantizationAware"
    assert merge_overrides([rounding, "seed=1"], ["strategy=full"]) == ["seed=1", "strategy=full"]


@pytest.mark.parametrize("path", ["/plain/run", "/jörg's runs (2)/a=b,[c]"])
def test_a_path_of_any_characters(path: str) -> None:
    line = substitute("distill.teacher=SOURCE/x", "SOURCE", path)
    (override,) = OverridesParser.create().parse_overrides([line])
    assert override.key_or_group == "distill.teacher" and override.value() == f"{path}/x"
    assert substitute("epochs=3", "SOURCE", path) == "epochs=3"


def test_a_training_step(run: RunDirectory, tmp_path: Path) -> None:
    step = TrainStep(["strategy=lp_ft", "epochs=2", "trainer.max_epochs=2"])
    checked = step.check(source_config(run))
    result = step.apply(run, tmp_path / "made")
    cfg, before = result.read_config(), run.read_config()
    assert cfg.strategy._target_ == checked.strategy._target_ == "visiontune.strategies.LpFt"
    assert cfg.optimizer.lr == pytest.approx(1e-3) and cfg.seed == 3 and cfg.trainer.max_epochs == 2
    assert cfg.data == before.data and cfg.heads == before.heads
    assert cfg.compressed_from == cfg.weights_from == str(run.path) and "overrides" not in cfg
    assert result.read_status()["status"] == "finished" and "test/classification/accuracy" in result.metrics.read_text()


def test_another_network_starts_from_its_own_weights(run: RunDirectory) -> None:
    step = TrainStep(["backbone=small_cnn", "backbone.widths=[2,4]", "optimizer.lr=0.1"], from_source=False)
    cfg = step.check(source_config(run))
    assert cfg.backbone.widths == [2, 4] and cfg.backbone.depth == 2 and cfg.weights_from is None
    assert cfg.optimizer.lr == pytest.approx(0.1) and cfg.data.image_size == 16


@pytest.mark.slow
@pytest.mark.usefixtures("brief_measurements")
def test_a_recipe(run: RunDirectory, command: Command, tmp_path: Path) -> None:
    arguments = [
        "compress",
        f"run={run.path}",
        "recipe=int8",
        f"output={tmp_path / 'int8'}",
        "recipe.steps.int8.max_drop=50",
        "compile=false",
    ]
    outcome = command(*arguments)
    result = outcome.run
    assert result.path == tmp_path / "int8" / "0_int8" and result.read_config().backend == "onnx"
    assert result.read_config().compressed_from == str(run.path)
    assert f"compressed from the run <code>{run.path}</code>" in (result.report / "index.html").read_text()
    assert "compressed from the run" not in (run.report / "index.html").read_text()
    with (tmp_path / "int8" / "table.csv").open(newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert float(rows["original, exported"]["megabytes"]) > float(rows["0_int8"]["megabytes"]) > 0
    accuracy = json.loads(result.metrics.read_text())["test/classification/accuracy"]
    assert float(rows["0_int8"]["test/classification/accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    evaluated = command("evaluate", f"run={result.path}").out
    assert f"{accuracy:.8f}" in evaluated
    before = result.predictions.stat().st_mtime_ns
    again = command(*arguments)  # finished steps do not run again
    assert f"{result.path} is finished" in again.out and result.predictions.stat().st_mtime_ns == before
    result.status.write_text(result.status.read_text().replace("finished", "running"))
    assert command(*arguments).run.predictions.stat().st_mtime_ns > before
    message = command(*arguments[:-1], "recipe.steps.int8.max_drop=40").message
    assert message.startswith(f"{tmp_path / 'int8'} was made with other steps")


def test_limits_may_change_until_a_step_has_finished(run: RunDirectory, tmp_path: Path) -> None:
    """After a failed step its limit may be raised in the same folder; other settings must stay the same."""

    def recipe(**arguments: object) -> DictConfig:
        node = {"_target_": "visiontune.compression.Int8", **arguments}
        return OmegaConf.create({"recipe": {"steps": {"int8": node}}})

    output, steps = tmp_path / "out", {"int8": Int8()}
    output.mkdir()
    write_recipe(output, recipe(max_drop=1.0, images=9), run, steps)
    write_recipe(output, recipe(max_drop=5.0, images=9), run, steps)
    assert OmegaConf.load(output / "recipe.yaml").steps.int8 == recipe(max_drop=5.0, images=9).recipe.steps.int8
    with pytest.raises(UserError, match="was made with other steps"):
        write_recipe(output, recipe(max_drop=5.0, images=8), run, steps)
    step_run = RunDirectory.create(output / "0_int8")
    step_run.status.write_text('{"status": "finished"}')
    write_recipe(output, recipe(max_drop=5.0, images=9), run, steps)
    with pytest.raises(UserError, match="was made with other steps"):
        write_recipe(output, recipe(max_drop=1.0, images=9), run, steps)


def test_one_recipe_at_a_time_in_a_folder(run: RunDirectory, command: Command, tmp_path: Path) -> None:
    lock = "f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    code = [sys.executable, "-c", f"import fcntl, sys; {lock}", tmp_path / ".claim"]
    with subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        message = command("compress", f"run={run.path}", "recipe=int8", f"output={tmp_path}").message
    assert message.startswith(f"another process is using {tmp_path}") and not (tmp_path / "recipe.yaml").exists()


def test_a_step_keeps_the_tested_lr_and_the_path_of_the_teacher(run: RunDirectory, tmp_path: Path) -> None:
    """The run's own command line names paths and tests that do not apply in the folder of a step."""
    cfg = source_config(run)
    overrides = [*cfg.overrides, "optimizer.lr=auto", "distill.teacher=logs/teacher"]
    cfg = derive(cfg, {"overrides": overrides, "optimizer.lr": 0.0123, "distill.teacher": str(run.path)})
    checked = TrainStep(["strategy=full"]).check(cfg)
    assert checked.optimizer.lr == 0.0123 and checked.distill.teacher == str(run.path)
    assert TrainStep(["distill.teacher=null"]).check(cfg).distill.teacher is None


@pytest.mark.parametrize(
    ("before", "after", "mode", "points"), [(0.9, 0.89, "max", 1), (30.0, 29.7, "max", 1), (2.0, 2.1, "min", 5)]
)
def test_metric_drops_in_points(before: float, after: float, mode: str, points: float) -> None:
    """Points are hundredths of a fraction, and percent of an error or of decibels."""
    assert metric_drop(before, after, mode) == pytest.approx(points)


def test_only_finished_runs(run: RunDirectory, command: Command, tmp_path: Path) -> None:
    status = json.loads(run.status.read_text())
    run.status.write_text(json.dumps(status | {"status": "interrupted"}))
    try:
        message = command("compress", f"run={run.path}", "recipe=int8").message
    finally:
        run.status.write_text(json.dumps(status))
    assert message == f"{run.path} is interrupted: finish it first with visiontune train run={run.path}"
    assert not (run.path / "compressed").exists()


def test_the_recipe_is_stored(run: RunDirectory, tmp_path: Path) -> None:
    cfg = OmegaConf.create({"recipe": {"steps": {"a": {"_target_": "x", "amount": 0.5}}}})
    write_recipe(tmp_path, cfg, run, {"a": Int8()})
    write_recipe(tmp_path, cfg, run, {"a": Int8()})
    assert OmegaConf.load(tmp_path / "recipe.yaml").steps.a.amount == 0.5


def test_a_folder_of_another_original_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    """Otherwise the table would mix steps of old and new weights."""
    cfg = OmegaConf.create({"recipe": {"steps": {"a": {"_target_": "x"}}}})
    write_recipe(tmp_path, cfg, run, {"a": Int8()})
    place = tmp_path / "recipe.yaml"
    place.write_text(place.read_text().replace(run.digest(), "0" * 64))
    with pytest.raises(UserError, match="was made with other steps or from other weights"):
        write_recipe(tmp_path, cfg, run, {"a": Int8()})


@pytest.mark.parametrize("place", ["", "smaller"])
def test_a_run_is_not_compressed_into_itself(place: str, run: RunDirectory, command: Command) -> None:
    message = command("compress", f"run={run.path}", "recipe=int8", f"output={run.path / place}").message
    assert message.endswith(f"is inside the run {run.path}: write another folder, such as output=smaller")
