"""Tests that need new processes: the time to start, Ctrl-C, errors, several ranks, another project name."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from alike import check_training
from running import FEW, Command

from visiontune.config.compose import config_dir
from visiontune.runs import RunDirectory

Shell = Callable[..., subprocess.Popen[str]]


def test_help_is_fast_and_imports_no_torch() -> None:
    code = (
        "from visiontune.cli import main; main(); import sys; print(sorted({'torch', 'lightning'} & set(sys.modules)))"
    )
    times = []
    for _ in range(3):
        start = time.monotonic()
        process = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
        times.append(time.monotonic() - start)
    assert min(times) < 1.5
    lines = process.stdout.splitlines()
    assert lines[-1] == "[]"
    assert lines[0] == "visiontune VERB [overrides]"
    for verb in ("train", "plan", "evaluate", "predict", "compare"):
        assert any(line.split()[:1] == [verb] for line in lines)


@pytest.mark.slow
def test_a_run_resumes_after_ctrl_c(shell: Shell, command: Command, tiny: list[str], tmp_path: Path) -> None:
    place = tmp_path / "run"
    process = shell("train", *tiny, "trainer.max_epochs=100000", "strategy=full", f"run_dir={place}")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert out.endswith(f"interrupted by SIGINT; resume with: visiontune train run={place}\n")
    run = RunDirectory.open(place)
    assert run.read_status()["status"] == "interrupted"
    last = torch.load(run.checkpoint("last"), weights_only=True)
    assert last["visiontune"]["tasks"]["classification"]["classes"] == [str(digit) for digit in range(10)]
    assert last["global_step"] >= 2

    more = last["global_step"] + 3  # one step per epoch
    outcome = command("train", f"run={place}", f"trainer.max_epochs={more}")
    assert outcome.code == 0, outcome.err
    assert run.read_status()["status"] == "finished"
    with run.history.open(newline="") as file:
        epochs = [int(row["epoch"]) for row in csv.DictReader(file)]
    assert epochs == list(range(more + 1))  # no gap and no duplicate
    assert "probe of" not in outcome.out


def test_an_error_sets_the_status_failed(command: Command, tiny: list[str], tmp_path: Path) -> None:
    place = tmp_path / "run"
    fault = "+callbacks.fault._target_=watching.Failure"
    outcome = command("train", *tiny, "trainer.max_epochs=3", fault, f"run_dir={place}")
    assert outcome.code == 1
    assert outcome.err == "error: RuntimeError: out of luck (debug=true shows where)\n"
    status = RunDirectory.open(place).read_status()
    assert status["status"] == "failed" and status["error"] == "RuntimeError: out of luck"
    assert "on_train_epoch_start" in status["traceback"] and "objective" not in status
    # Its config names a foreign class, so reading the run needs trust=true.
    message = command("train", f"run={place}").message
    assert message.startswith("the run's config names callbacks.fault._target_=watching.Failure, which is outside")
    assert command("evaluate", f"run={place}").message == message


def test_an_error_with_its_traceback(command: Command, tiny: list[str], tmp_path: Path) -> None:
    fault = "+callbacks.fault._target_=watching.Failure"
    outcome = command("train", *tiny, "trainer.max_epochs=3", fault, f"run_dir={tmp_path / 'run'}", "debug=true")
    assert outcome.code == 1 and outcome.err.startswith("Traceback")
    assert outcome.err.rstrip().endswith("RuntimeError: out of luck (debug=true shows where)")


def steps_of_all_ranks(folder: Path, ranks: int) -> list[set[str]]:
    """The paths of each training step over all ranks; checks that no two ranks have the same image in a step."""
    steps: list[set[str]] = []
    parts = [
        [json.loads(line) for line in (folder / f"{rank}.jsonl").read_text().splitlines()] for rank in range(ranks)
    ]
    for batches in zip(*parts, strict=True):
        paths = [path for batch in batches for path in batch]
        assert len(set(paths)) == len(paths)
        steps.append(set(paths))
    return steps


@pytest.mark.usefixtures("forked")
def test_two_processes_train_as_one(command: Command, tiny: list[str], tmp_path: Path) -> None:
    shared = [override for override in tiny if not override.startswith(("trainer=", "trainer.max", "data.limit"))]
    shared += ["strategy=linear_probe", "augment=none", "optimizer.lr=0.05", "data.limit_train=100", "seed=3"]
    runs = {}
    for name, size in (("ddp_cpu", 16), ("cpu", 32)):
        outcome = command(
            "train",
            *shared,
            f"trainer={name}",
            "trainer.max_epochs=2",
            f"data.batch_size={size}",
            "+callbacks.paths._target_=watching.Paths",
            f"+callbacks.paths.folder={tmp_path / name}",
            f"run_dir={tmp_path / 'runs' / name}",
        )
        runs[name] = outcome.run
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["cpu", "ddp_cpu"]
    double, single = steps_of_all_ranks(tmp_path / "ddp_cpu", 2), steps_of_all_ranks(tmp_path / "cpu", 1)
    assert double == single and [len(step) for step in double] == [32, 32, 32, 4] * 2

    values, expected = (json.loads(runs[name].metrics.read_text()) for name in ("ddp_cpu", "cpu"))
    assert values == pytest.approx(expected, abs=1e-4) and len(values) == 16
    rows = []
    for run in runs.values():
        with run.history.open(newline="") as file:
            rows.append([row | {"seconds": ""} for row in csv.DictReader(file)])
    assert len(rows[0]) == len(rows[1]) == 3
    for ours, theirs in zip(*rows, strict=True):
        for name, value in ours.items():
            if value and name not in ("epoch", "step"):
                assert float(value) == pytest.approx(float(theirs[name]), abs=1e-4), name
            elif name in ("epoch", "step"):
                assert value == theirs[name]
    states = [torch.load(run.checkpoint("last"), weights_only=True)["state_dict"] for run in runs.values()]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=0, atol=1e-4)
    assert float(states[0]["heads.classification.linear.weight"].abs().max()) > 0.1  # it did train


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_two_processes_resume_within_an_epoch(
    command: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank has its own BatchNorm statistics and losses. The resumed ranks are new processes."""
    shared = [override for override in tiny if not override.startswith(("trainer=", "trainer.max"))]
    shared += [FEW, "trainer=ddp_cpu", "trainer.max_epochs=2", "data.batch_size=8", "checkpoints.every_steps=1"]
    shared += ["strategy=full", "strategy.batchnorm=train", "optimizer.lr=0.01"]
    whole = command("train", *shared, f"run_dir={tmp_path / 'whole'}").run
    stop = [f"+callbacks.stop.{key}" for key in ("_target_=watching.Stop", "epoch=1", "batch=2", f"folder={tmp_path}")]
    paused = command("train", *shared, *stop, "checkpoints.pause_after=1", f"run_dir={tmp_path / 'parts'}")
    assert paused.code == 75 and "paused after epoch 1; resume with" in paused.out, paused.err
    parts = RunDirectory.open(tmp_path / "parts")
    assert command("train", f"run={parts.path}", "checkpoints.pause_after=null", "trust=true").code == 1
    ranks = torch.load(parts.checkpoint("last"), weights_only=True)["exact_resume"]["ranks"]
    name = "backbone.model.block1.norm1.running_mean"
    assert not torch.equal(*(rank["buffers"][0][name] for rank in ranks))
    monkeypatch.undo()  # no forks, but processes that import everything, as outside of tests
    check_training(whole, command("train", f"run={parts.path}", "trust=true").run)


@pytest.mark.slow
def test_another_name(tmp_path: Path) -> None:
    """`make rename` in a copy renames the package, the command, configs, docs and tests."""
    root, copy = config_dir().parent, tmp_path / "copy"
    out = shutil.ignore_patterns(
        ".*cache", ".hypothesis", ".venv", ".git", "logs", "__pycache__", "*.egg-info", "dist", "build"
    )
    shutil.copytree(root, copy, ignore=out)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    python = sys.executable
    environment_exists = ["-o", ".venv/.ready", f"BIN={Path(python).parent}"]
    rename = ["make", "rename", *environment_exists]
    bad = subprocess.run([*rename, "NAME=Bird-Watch"], cwd=copy, capture_output=True, text=True)
    assert bad.returncode != 0 and "error: 'Bird-Watch' is no package name" in bad.stderr
    process = subprocess.run([*rename, "NAME=birdwatch"], cwd=copy, capture_output=True, text=True, check=True)
    assert any(line.startswith("visiontune is now birdwatch") for line in process.stdout.splitlines())

    sources = {path.relative_to(copy / "src").as_posix() for path in (copy / "src").glob("*")}
    assert sources == {"birdwatch", "hydra_plugins"}
    assert [path.name for path in (copy / "src" / "hydra_plugins").iterdir()] == ["birdwatch_sweeper.py"]
    for path in copy.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            assert b"visiontune" not in path.read_bytes().lower(), path
    assert 'birdwatch = "birdwatch.__main__:run"' in (copy / "pyproject.toml").read_text()
    for check in ("format --check", "check"):  # lines and imports, which have another length and order
        assert subprocess.run([python, "-m", "ruff", *check.split(), "-q", "--no-cache", "."], cwd=copy).returncode == 0

    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    code = "from birdwatch import cli; from birdwatch.config.compose import config_dir; cli.main(); print(config_dir())"
    help_ = [python, "-c", code, "--help"]
    lines = subprocess.run(help_, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == "birdwatch VERB [overrides]" and lines[-1] == str(copy / "configs")
    subset = [
        "tests/strategies/test_strategies.py",
        "tests/optim/test_schedulers.py",
        "tests/test_configs.py::test_trainers_of_one_process_train",
        "tests/end_to_end/test_sweep.py::test_four_runs_and_no_test_split",
    ]
    pytest_ = [python, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", *subset]
    passed = subprocess.run(pytest_, cwd=copy, env=environment, capture_output=True, text=True)
    assert passed.returncode == 0, passed.stdout[-3000:]
    count = re.search(r"(\d+) passed", passed.stdout)
    assert count is not None and int(count[1]) >= 30
