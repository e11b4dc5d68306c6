"""Machines: signals, jobs of a cluster, full disks."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from alike import check_training
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.plugins.environments import LightningEnvironment
from omegaconf import DictConfig
from running import TINY, Command

from visiontune import train
from visiontune.models.finetuner import FineTuner
from visiontune.runs import RunDirectory, disk, files
from visiontune.training.evaluation import quiet_trainer
from visiontune.training.load import load_model
from visiontune.training.space import check_space, checkpoint_bytes

BASE = [*TINY, "trainer.max_epochs=3", "data.batch_size=16", "strategy=full", "optimizer.lr=0.01"]
SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODELIST": "localhost",
}
OTHERS = {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "4", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}


@pytest.fixture(scope="module")
def uninterrupted(command: Command, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "report", lambda *_: None)
        return command("train", *BASE, f"run_dir={tmp_path_factory.mktemp('whole') / 'run'}").run


def before_call(owner: Any, name: str, number: int, action: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Call `action` before the `number`-th call of a function."""
    original, remaining = getattr(owner, name), [number]

    def call(*arguments: Any, **options: Any) -> Any:
        remaining[0] -= 1
        if remaining[0] == 0:
            action()
        return original(*arguments, **options)

    patch.setattr(owner, name, call)


def stop() -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("no_report")
def test_sigterm_stops_a_run_before_the_next_batch_and_while_it_is_evaluated(
    command: Command, uninterrupted: RunDirectory, tmp_path: Path
) -> None:
    run, resume = RunDirectory(tmp_path / "a run"), f"visiontune train run='{tmp_path / 'a run'}'"
    with pytest.MonkeyPatch.context() as patch:  # in the second batch of the second epoch
        before_call(FineTuner, "on_after_backward", 6, stop, patch)
        outcome = command("train", *BASE, f"run_dir={run.path}")
    assert outcome.code == 143 and outcome.err == "stopped by SIGTERM\n"
    assert outcome.out.endswith(f"\ninterrupted by SIGTERM; resume with: {resume}\n")
    assert resume in run.log.read_text()
    status = run.read_status()
    assert status["status"] == "interrupted" and status["signal"] == "SIGTERM"
    assert torch.load(run.checkpoint("last"), weights_only=True)["global_step"] == 6

    with pytest.MonkeyPatch.context() as patch:
        before_call(train, "measure", 1, stop, patch)
        outcome = command("train", f"run={run.path}")
    assert outcome.code == 143 and resume in outcome.out
    assert run.read_status()["status"] == "interrupted"

    assert command("train", f"run={run.path}").code == 0
    check_training(uninterrupted, run)
    assert [path.name for path in run.path.rglob(".*")] == [".claim"]


def test_a_signal_before_the_training_leaves_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_call(train, "build_data", 1, lambda: signal.raise_signal(signal.SIGUSR1), monkeypatch)
    outcome = command("train", *BASE, f"run_dir={tmp_path / 'run'}")
    assert (outcome.code, outcome.out, outcome.err) == (138, "", "stopped by SIGUSR1\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_signal_stops_the_sweep(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before_call(FineTuner, "on_after_backward", 1, stop, monkeypatch)
    outcome = command("train", "-m", *BASE, "seed=1,2", "sweep.workers=0", f"sweep_dir={tmp_path}")
    assert outcome.code == 143
    assert RunDirectory.open(tmp_path / "000").read_status()["status"] == "interrupted"
    assert not (tmp_path / "001").exists()


def test_a_run_whose_process_is_gone_is_stopped(run: RunDirectory, command: Command, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    copy = RunDirectory.open(tmp_path / "run")
    content = json.dumps(json.loads(copy.status.read_text()) | {"status": "running"})
    copy.status.write_text(content)
    table = command("compare", copy.path)
    assert table.code == 0 and "stopped" in table.out and "running" not in table.out
    for arguments in (["export"], ["compress", "recipe=int8"]):
        message = command(*arguments, f"run={copy.path}").message
        assert message.startswith(f"{copy.path} is stopped: ") and "visiontune train run=" in message
    assert copy.status.read_text() == content


@pytest.mark.parametrize("variables", [SLURM, SLURM | {"SLURM_JOB_NAME": "bash"}, OTHERS])
def test_variables_of_a_cluster_change_nothing(
    variables: Mapping[str, str], plan: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # what Lightning reads from them when it is imported
    assert plan("data=digits").code == 0
    trainer = quiet_trainer("cpu", "32-true")
    assert isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)
    assert (trainer.world_size, trainer.global_rank, rank_zero_only.rank) == (1, 0, 0)


def test_the_size_of_a_checkpoint_is_estimated(run: RunDirectory) -> None:
    cfg = run.read_config()
    model, _ = load_model(run, cfg)
    checkpoint = torch.load(run.checkpoint("last"), weights_only=True)

    def size(value: Any) -> int:
        if isinstance(value, torch.Tensor):
            return value.nbytes
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return sum(map(size, values))

    assert checkpoint_bytes(cfg, model) == pytest.approx(size(checkpoint), rel=0.1)


def test_a_disk_that_cannot_hold_the_checkpoints(
    command: Command, config: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=10**9, used=0, free=10_000_000)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: tuple(vars(usage).values()))
    message = command("train", *BASE, f"run_dir={tmp_path / 'logs' / 'run'}").message
    assert message.startswith(f"the disk of {tmp_path} has 10 MB free, and the run needs 10 MB: 4 checkpoints of 0 MB,")
    assert message.endswith("Free some space, or write to another disk with run_dir=DIR or paths.logs=DIR")
    assert list(tmp_path.iterdir()) == []
    # The files of a resumed run count as room.
    (tmp_path / "last.ckpt").write_bytes(bytes(10**6))
    check_space(config(), train.build_model(config(), train.build_data(config()))[0], tmp_path, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_disk_that_fills(command: Command, uninterrupted: RunDirectory, tmp_path: Path) -> None:
    run, original = RunDirectory(tmp_path / "run"), files._sync

    def fill(file: Any) -> None:  # when the second last.ckpt is written
        if "next.ckpt" in file.name and (run.checkpoints / "last.ckpt").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_sync", fill)
        outcome = command("train", *BASE, f"run_dir={run.path}")
    assert outcome.code == 1
    assert outcome.err == (
        f"error: {run.checkpoints / 'next.ckpt'} could not be written: No space left on device. Free some space, then "
        f"resume the run with: visiontune train run={run.path}\n"
    )
    assert run.read_status()["status"] == "failed"
    assert [path.name for path in run.path.rglob(".*")] == [".claim"]
    assert command("train", f"run={run.path}").code == 0
    check_training(uninterrupted, run)
