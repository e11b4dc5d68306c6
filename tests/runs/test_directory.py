"""The run directory is created exclusively, and its status follows the run."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from visiontune.errors import UserError
from visiontune.runs import RunDirectory, files
from visiontune.runs.files import save_atomically, write_atomically, write_json
from visiontune.signals import Interrupted


def test_only_one_of_many_gets_a_directory(tmp_path: Path) -> None:
    def attempt(_: int) -> str:
        try:
            RunDirectory.create(tmp_path / "deep" / "run")
        except UserError as error:
            return str(error)
        return "mine"

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(attempt, range(16)))
    assert answers.count("mine") == 1
    assert sum("belongs to a run that has not begun training" in answer for answer in answers) == 15
    (tmp_path / "deep" / "run" / "config.yaml").touch()
    assert "already holds a run: write another run_dir=DIR, or resume the run with run=" in attempt(0)


def test_new_runs_never_share_a_directory(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: RunDirectory.new(tmp_path, "birds"), range(40)))
    assert len({run.path for run in runs}) == 40
    assert all(run.path.parent == (tmp_path / "birds").resolve() for run in runs)
    assert all(run.checkpoints.is_dir() and run.report.is_dir() for run in runs)


def test_an_existing_name_is_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("visiontune.runs.directory.time.strftime", lambda _: "now")
    monkeypatch.setattr("visiontune.runs.directory.secrets.token_hex", lambda _: next(names))
    assert [RunDirectory.new(tmp_path, "birds").path.name for _ in range(2)] == ["now-aaaa", "now-bbbb"]


def test_a_run_directory_may_be_an_empty_folder_but_no_other(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(
        UserError, match=r"full is not empty: write another run_dir=DIR, or resume the run in it with run="
    ):
        RunDirectory.create(tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UserError, match=r"notes is a file: write a folder, such as run_dir=.*notes_run$"):
        RunDirectory.create(tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_run_that_was_killed_before_it_wrote_its_config(tmp_path: Path) -> None:
    """The messages of `run=` and `run_dir=` both say to delete it, and do not refer to each other."""
    run = RunDirectory.create(tmp_path / "run")
    with pytest.raises(
        UserError,
        match=r"run cannot be resumed: the run was stopped before it had written .*\. Delete .*run and start",
    ):
        RunDirectory.open(run.path)
    with pytest.raises(
        UserError, match=r"run belongs to a run that has not begun training: if that run was killed, delete"
    ):
        RunDirectory.create(run.path)
    shutil.rmtree(run.path)
    RunDirectory.create(run.path)


def test_opening_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run directory \(it has no config.yaml\)"):
        RunDirectory.open(tmp_path)


def test_status_of_a_run_that_finishes(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    assert run.read_status() == {"status": "unknown"}
    with run.running() as outcome:
        during = run.read_status()
        assert during["status"] == "running" and "error" not in during
        outcome["objective"] = {"name": "val/a/b", "mode": "max", "value": 0.5, "epoch": 1}
    after = run.read_status()
    assert after["status"] == "finished" and after["objective"]["value"] == 0.5
    assert after["started"] == during["started"] <= after["updated"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("bad luck"), "failed"),
        (Interrupted(15), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(1), "interrupted"),
    ],
)
def test_status_of_a_run_that_stops(tmp_path: Path, error: BaseException, status: str) -> None:
    run = RunDirectory.create(tmp_path / "run")
    with pytest.raises(type(error)), run.running():
        raise error
    after = run.read_status()
    assert after["status"] == status and after["error"] == f"{type(error).__name__}: {error}"
    assert "raise error" in after["traceback"]
    assert after.get("signal") == ("SIGTERM" if isinstance(error, Interrupted) else None)
    assert not (run.path / ".reserve").exists()


def test_a_full_disk_leaves_room_for_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the reserve is released, nothing can be written."""
    run, original = RunDirectory.create(tmp_path / "run"), files._sync

    def sync(file: Any) -> None:
        if (run.path / ".reserve").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(file)

    monkeypatch.setattr(files, "_sync", sync)
    with pytest.raises(OSError, match="No space left") as error, run.running():
        write_json(run.metrics, {})
    assert error.value.filename == str(run.metrics)
    assert run.read_status()["status"] == "failed"
    assert sorted(path.name for path in run.path.iterdir()) == [".claim", "checkpoints", "report", "status.json"]


def test_a_checkpoint_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch hides the reason of a failed write in a RuntimeError."""
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode="r": original(Path("/dev/full"), mode, buffering=0))
    with pytest.raises(OSError, match="No space left") as error:
        save_atomically(tmp_path / "a.ckpt", {"weights": torch.zeros(100_000)})
    assert error.value.filename == str(tmp_path / "a.ckpt")


# Locks the run; its child outlives it for a while, as data-loader workers do.
HOLDER = """
import os, sys, time
from pathlib import Path
sys.modules["torch"] = type(sys)("torch")  # not needed; its import takes seconds
from visiontune.runs.directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).lock():
    if child := os.fork():
        print(child, flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, run.path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    with (
        pytest.raises(UserError, match=r"^another process is using .*run \(its process id is in status.json\)"),
        run.running(),
    ):
        pass
    assert run.read_status() == {"status": "unknown"}  # nothing was touched
    run.status.write_text('{"status": "running"}')
    assert [run.read_status()["status"] for _ in range(2)] == ["running"] * 2
    holder.kill()
    holder.wait()
    assert run.read_status()["status"] == "stopped"  # although a child of the holder lives
    assert run.status.read_text() == '{"status": "running"}'
    with run.lock(), run.running():
        pass
    assert run.read_status()["status"] == "finished"
    os.kill(child, signal.SIGKILL)


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / ".claim").mkdir()  # cannot be opened as a file by any user
    with pytest.raises(UserError, match=r"^cannot write to .*: Is a directory; change its permissions"):
        RunDirectory(tmp_path).lock().__enter__()


def test_checkpoints_by_name_and_path(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    with pytest.raises(
        UserError, match=r"best.ckpt does not exist: write checkpoint=best, checkpoint=last or the path"
    ):
        run.checkpoint("best")
    (run.checkpoints / "last.ckpt").touch()
    assert run.checkpoint("last") == run.checkpoints / "last.ckpt" == run.checkpoint(str(run.checkpoint("last")))


def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})

    def write_half() -> None:
        with write_atomically(tmp_path / "a.json") as file:
            file.write("{")
            raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        write_half()
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_file_is_on_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power failure a file has its old or its new content; a run cannot resume without its config.yaml."""
    path, order = tmp_path / "a.json", []
    for owner, name in ((os, "fsync"), (Path, "replace")):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, call=original, n=name: (order.append(n), call(*args))[1])
    write_json(path, {"x": 1})
    save_atomically(path, {"x": 1})
    assert order == ["fsync", "replace"] * 2
