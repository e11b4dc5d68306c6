"""A run that SIGTERM or a full disk stops at any moment, and that is resumed, equals an uninterrupted run.

The commands run in processes of a fork server, which need not import torch again. They inherit no threads.
"""

import ctypes
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import kill_moments
import pytest
import torch
from alike import check_results, check_training
from kill_moments import MOMENTS
from killing import CONTEXT
from running import Command, Outcome, can_mount, run_command
from test_kill import BASE, OFTEN, SETTINGS
from torch.multiprocessing import start_processes

from visiontune import train
from visiontune.runs import RunDirectory

CLONE_NEWNS = 0x20000
draw = random.Random(16)
STOPS = [(moment, draw.randint(1, OFTEN[moment]), i % 3) for i, moment in enumerate(OFTEN)]
RANKS = [
    "trainer=ddp_cpu",
    "data.batch_size=8",
    "data.num_workers=0",
    "strategy=gradual_unfreeze",
    "trainer.accumulate_grad_batches=3",
]
STOPS_OF_RANKS = [("batch", 9, 0), ("step", 5, 1), ("validation", 10, 1), ("epoch", 3, 0)]


@pytest.fixture(scope="module")
def uninterrupted(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], RunDirectory]:
    """The uninterrupted run of a setting, which trains when it is first needed."""
    folder = tmp_path_factory.mktemp("whole")

    def run(setting: int) -> RunDirectory:
        path = folder / str(setting)
        if not path.is_dir():
            assert command("train", *BASE, *SETTINGS[setting].split(), f"run_dir={path}").code == 0
        return RunDirectory.open(path)

    return run


@pytest.fixture
def forked_command(tmp_path: Path) -> Callable[..., Outcome]:
    """`forked_command(prepare, "train", ...)`: a command in a process of the fork server, after `prepare()`.

    Checks that it leaves no process.
    """

    def run(prepare: Callable[[], object], *arguments: object) -> Outcome:
        process = CONTEXT.Process(target=work, args=(prepare, arguments, tmp_path))
        process.start()
        process.join()
        assert processes_of_group(process.pid) == []
        return Outcome(process.exitcode or 0, (tmp_path / "out").read_text(), (tmp_path / "err").read_text())

    return run


def work(prepare: Callable[[], object], arguments: tuple[object, ...], folder: Path) -> None:
    os.setsid()
    signal.alarm(120)
    use_forks()
    prepare()
    outcome = run_command(*arguments)
    (folder / "out").write_text(outcome.out)
    (folder / "err").write_text(outcome.err)
    os._exit(outcome.code)


def use_forks() -> None:
    """Data-loader workers and ranks are forks, although this process comes from a fork server."""
    multiprocessing.set_start_method("fork", force=True)
    torch.multiprocessing.spawn = partial(start_processes, start_method="fork")  # type: ignore[assignment]


def processes_of_group(group: int | None) -> list[str]:
    """The processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, member_of, *_ = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(member_of) == group and state != "Z":
            found.append(path.parent.name)
    return found


def signal_group() -> None:
    """Send SIGTERM to this process and its data-loader workers, as `timeout` and Slurm do."""
    subprocess.run(["kill", "-TERM", "--", f"-{os.getpgrp()}"])


def signal_parent() -> None:
    os.kill(os.getppid(), signal.SIGTERM)


def send_sigterm(moment: str, count: int, target: Callable[[], None]) -> None:
    """Call `target` when the moment occurs for the `count`-th time."""
    kill_moments.kill = target
    MOMENTS[moment](count)


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "count", "setting"), STOPS)
def test_a_stopped_run_resumes_exactly(
    moment: str,
    count: int,
    setting: int,
    uninterrupted: Callable[[int], RunDirectory],
    forked_command: Callable[..., Outcome],
    command: Command,
    tmp_path: Path,
) -> None:
    whole = uninterrupted(setting)
    # The data-loader workers get the signal as well, as under Slurm.
    prepare = partial(send_sigterm, moment, count, signal_group)
    outcome = forked_command(prepare, "train", *BASE, *SETTINGS[setting].split(), f"run_dir={tmp_path / 'run'}")
    assert outcome.code == 143 and outcome.err == "stopped by SIGTERM\n", outcome
    run = RunDirectory.open(tmp_path / "run")
    assert run.read_status()["status"] == "interrupted"
    assert outcome.out.endswith(f"interrupted by SIGTERM; resume with: visiontune train run={run.path}\n")
    assert [path.name for path in run.path.rglob(".*")] == [".claim"]
    assert command("train", f"run={run.path}").code == 0
    check_training(whole, run)
    check_results(whole, run)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("two")
    process = CONTEXT.Process(target=work, args=(int, ("train", *BASE, *RANKS, f"run_dir={folder / 'run'}"), folder))
    process.start()
    process.join()
    assert process.exitcode == 0, (folder / "err").read_text()
    return RunDirectory.open(folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "count", "rank"), STOPS_OF_RANKS)
def test_two_stopped_ranks_resume_exactly(
    moment: str,
    count: int,
    rank: int,
    forked_command: Callable[..., Outcome],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    whole: RunDirectory = request.getfixturevalue("two_ranks")

    prepare = partial(send_sigterm, moment, count, signal_parent)
    outcome = forked_command(prepare, "train", *BASE, *RANKS, f"run_dir={tmp_path / 'run'}")
    assert outcome.code == 143 and outcome.err == "stopped by SIGTERM\n", outcome
    run = RunDirectory.open(tmp_path / "run")
    assert run.read_status()["status"] == "interrupted"
    last = torch.load(run.checkpoint("last"), weights_only=True)
    assert len(last["exact_resume"]["ranks"]) == 2
    assert forked_command(int, "train", f"run={run.path}").code == 0
    check_training(whole, run)


@pytest.mark.slow
def test_a_stopped_sweep(forked_command: Callable[..., Outcome], tmp_path: Path) -> None:
    prepare = partial(send_sigterm, "batch", 20, signal_group)
    settings = [*SETTINGS[2].split(), "seed=1,2,3", "sweep.workers=0"]
    outcome = forked_command(prepare, "train", "-m", *BASE, *settings, f"sweep_dir={tmp_path}")
    assert outcome.code == 143
    statuses = [RunDirectory.open(tmp_path / name).read_status()["status"] for name in ("000", "001")]
    assert statuses == ["finished", "interrupted"] and not (tmp_path / "002").exists()


@pytest.mark.slow
def test_a_stopped_sweep_of_two_ranks(forked_command: Callable[..., Outcome], tmp_path: Path) -> None:
    prepare = partial(send_sigterm, "batch", 5, signal_parent)
    settings = [*RANKS, "seed=1,2", "sweep.workers=0"]
    outcome = forked_command(prepare, "train", "-m", *BASE, *settings, f"sweep_dir={tmp_path / 'sweep'}")
    assert outcome.code == 143 and outcome.err == "stopped by SIGTERM\n", outcome
    run = RunDirectory.open(tmp_path / "sweep" / "000")
    assert run.read_status()["status"] == "interrupted" and not (tmp_path / "sweep" / "001").exists()
    assert len(torch.load(run.checkpoint("last"), weights_only=True)["exact_resume"]["ranks"]) == 2
    header, *rows = (tmp_path / "sweep" / "sweep.csv").read_text().splitlines()
    statuses = [dict(zip(header.split(","), row.split(","), strict=True))["status"] for row in rows]
    assert statuses == ["interrupted", "waiting"]


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="mounting a small disk needs root and CAP_SYS_ADMIN")
@pytest.mark.parametrize("kilobytes", sorted(draw.sample(range(116, 192, 4), 6)))
def test_a_disk_that_fills(
    kilobytes: int,
    uninterrupted: Callable[[int], RunDirectory],
    tmp_path: Path,
) -> None:
    """On a disk of a mount namespace, which grows before the run is resumed."""
    whole = uninterrupted(1)
    (tmp_path / "disk").mkdir()
    process = CONTEXT.Process(target=fill_disk, args=(kilobytes, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == 0
    check_training(whole, RunDirectory.open(tmp_path / "run"))
    check_results(whole, RunDirectory.open(tmp_path / "run"))


def fill_disk(kilobytes: int, folder: Path) -> None:
    """Train on a new disk of this size until it is full, make it larger and resume; copy the run to `folder`."""
    use_forks()
    train.check_space = lambda *_: None  # else it would refuse to start
    ctypes.CDLL(None).unshare(CLONE_NEWNS)
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder / "disk"))
    run = RunDirectory(folder / "disk" / "run")
    outcome = run_command("train", *BASE, *SETTINGS[1].split(), f"run_dir={run.path}")
    assert outcome.code == 1, outcome
    assert outcome.err.count("\n") == 1 and "could not be written: No space left on device. Free" in outcome.err
    assert "Traceback" not in outcome.out and outcome.err.endswith(f"visiontune train run={run.path}\n")
    assert run.read_status()["status"] == "failed"
    assert [path.name for path in run.path.rglob(".*")] == [".claim"]
    mount("-o", "remount,size=100m", str(folder / "disk"))
    outcome = run_command("train", f"run={run.path}")
    assert outcome.code == 0, outcome
    shutil.copytree(run.path, folder / "run")
