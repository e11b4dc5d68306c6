"""Sweeps of jobs with two ranks, with each launcher: the numbers of single runs, and no process remains."""

import ctypes
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from alike import check_training
from killing import CONTEXT, run_forked, work
from running import FEW, TINY, Command
from torch.multiprocessing import start_processes

from visiontune.runs import RunDirectory

PR_SET_CHILD_SUBREAPER = 36
SEEDS = (0, 1, 2)
RANKS = [*(item for item in TINY if item != "trainer=cpu"), FEW, "trainer=ddp_cpu", "strategy=full", "test=false"]
LAUNCHERS = {
    "local": ["sweep.workers=1", "sweep.threads=1"],
    "slurm": ["launcher=slurm", "launcher.cluster=local", "launcher.workers=2", "launcher.cpus=1"],
    "ray": ["launcher=ray", "launcher.workers=1"],
}
# Of a job of Slurm with two tasks, and of torchrun; the command runs in them.
VARIABLES = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
VARIABLES |= {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "7"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def single_runs(command: Command, tmp_path_factory: pytest.TempPathFactory) -> list[RunDirectory]:
    """A run for each seed. Their ranks are forks, which need not import torch."""
    folder = tmp_path_factory.mktemp("single")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.multiprocessing, "spawn", partial(start_processes, start_method="fork"))
        return [command("train", *RANKS, f"seed={seed}", f"run_dir={folder / str(seed)}").run for seed in SEEDS]


def read_children() -> dict[int, list[int]]:
    """The processes that run, by the one that has started them."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(path.parent.name))
    return children


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and those that these have started."""
    children, below = read_children(), [pid]
    for parent in below:
        below += children.get(parent, [])
    return set(below[1:])


@pytest.fixture
def no_process_remains() -> Iterator[Callable[[], None]]:
    """A function that checks that all processes have ended which were started after the fixture."""
    process = CONTEXT.Process(target=os.getpid)  # starts the fork server
    process.start()
    process.join()
    libc, before = ctypes.CDLL(None), descendants(os.getpid())

    def check() -> None:
        end = time.monotonic() + 10
        while (left := descendants(os.getpid()) - before) and time.monotonic() < end:
            time.sleep(0.1)
        assert not left, [Path(f"/proc/{pid}/cmdline").read_text() for pid in left]

    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # processes whose parent has ended get this one as parent
    yield check
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_with_two_ranks_train_as_single_runs(
    launcher: str,
    single_runs: list[RunDirectory],
    no_process_remains: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    sweep, output = tmp_path / "sweep", tmp_path / "output.txt"
    seeds = f"seed={','.join(map(str, SEEDS))}"
    code = run_forked(
        ["train", "-m", seeds, *RANKS, *LAUNCHERS[launcher], "sweep.check=false", f"sweep_dir={sweep}"], output
    )
    assert code == 0, output.read_text()
    no_process_remains()
    assert output.read_text().count("starts\n") == len(SEEDS)
    assert sorted(path.name for path in sweep.iterdir() if path.name[0] == "0") == ["000", "001", "002"]
    for single, number in zip(single_runs, ("000", "001", "002"), strict=True):
        job = RunDirectory.open(sweep / number)
        assert job.read_status()["status"] == "finished"
        assert single.metrics.read_text() == job.metrics.read_text()
        check_training(single, job)


def test_a_preempted_worker_resumes_its_job(
    command: Command, no_process_remains: Callable[[], None], tmp_path: Path
) -> None:
    """SIGUSR2 of all processes of a worker, as Slurm sends it before the time limit."""
    base = [*TINY, FEW, "trainer.max_epochs=40", "strategy=full", "optimizer.lr=0.01", "seed=3"]
    single = command("train", *base, "test=false", f"run_dir={tmp_path / 'single'}").run
    sweep, output = tmp_path / "sweep", tmp_path / "output.txt"
    arguments = ["train", "-m", *base, *LAUNCHERS["slurm"], "sweep.check=false", f"sweep_dir={sweep}"]
    process = CONTEXT.Process(target=work, args=(output, arguments, None))
    process.start()
    end = time.monotonic() + 120
    while not (sweep / "000" / "checkpoints" / "last.ckpt").is_file():
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.05)
    (controller,) = re.findall(r"1 worker \((\d+)\)", output.read_text())
    for pid in descendants(int(controller)):
        os.kill(pid, signal.SIGUSR2)
    process.join()
    assert process.exitcode == 0, output.read_text()
    no_process_remains()
    text = (sweep / "slurm" / "worker_0.txt").read_text()
    assert [text.count(words) for words in ("starts\n", "stopped by SIGTERM\n", "resumes\n")] == [1, 1, 1]
    check_training(single, RunDirectory.open(sweep / "000"))
