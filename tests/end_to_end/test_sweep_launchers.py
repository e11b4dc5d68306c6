"""Sweeps of jobs with two ranks, with each launcher: the numbers of single runs, and no process remains."""

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from alike import check_training
from killing import CONTEXT, run_forked
from running import FEW, TINY, Command
from torch.multiprocessing import start_processes

from visiontune.runs import RunDirectory

PR_SET_CHILD_SUBREAPER = 36
SEEDS = (0, 1, 2)
RANKS = [*(item for item in TINY if item != "trainer=cpu"), FEW, "trainer=ddp_cpu", "strategy=full", "test=false"]
LAUNCHERS = {
    "local": [],
    "slurm": ["launcher=slurm", "launcher.cluster=local", "launcher.workers=2", "sweep.threads=1"],
    "ray": ["launcher=ray", "launcher.workers=2", "sweep.threads=1"],
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


def descendants() -> set[int]:
    """The processes below this one, also those whose parent has ended."""
    children, found = read_children(), [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return set(found[1:])


@pytest.fixture
def no_process_remains() -> Iterator[Callable[[], None]]:
    """A function that checks that all processes have ended which were started after the fixture."""
    process = CONTEXT.Process(target=os.getpid)  # starts the fork server
    process.start()
    process.join()
    libc, before = ctypes.CDLL(None), descendants()

    def check() -> None:
        end = time.monotonic() + 10
        while (left := descendants() - before) and time.monotonic() < end:
            time.sleep(0.1)
        assert not left, [Path(f"/proc/{pid}/cmdline").read_text() for pid in left]

    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
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
    code = run_forked(["train", "-m", seeds, *RANKS, *LAUNCHERS[launcher], f"sweep_dir={sweep}"], output)
    assert code == 0, output.read_text()
    no_process_remains()
    assert output.read_text().count("starts\n") == len(SEEDS)
    assert sorted(path.name for path in sweep.iterdir() if path.name[0] == "0") == ["000", "001", "002"]
    for single, number in zip(single_runs, ("000", "001", "002"), strict=True):
        job = RunDirectory.open(sweep / number)
        assert job.read_status()["status"] == "finished"
        assert single.metrics.read_text() == job.metrics.read_text()
        check_training(single, job)


def wait_for(path: Path, output: Path) -> None:
    end = time.monotonic() + 120
    while not path.is_file():
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.05)
