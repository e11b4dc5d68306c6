"""What sweeps cost: time of one and of two workers, overhead of a job, a worker that is added, and kills.

python -m benchmarks.sweeps [--folder logs/sweep_benchmark] [--kills 20] [--trivial 200] [--rounds 1]

All jobs have one thread, and each worker has a core of its own. It takes about twenty minutes on two idle cores, and
writes the block `sweeps` of docs/sweeps.md.
"""

import argparse
import csv
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, median

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import TrialState, create_trial

from benchmarks.document import DOCS, machine, markdown, write_block
from visiontune.runs import RunDirectory
from visiontune.sweeps.study.settings import Settings
from visiontune.sweeps.study.suggest import Search
from visiontune.sweeps.study.sweep import Job, Sweep

COMMAND = [sys.executable, "-m", "visiontune"]
NETWORK = ["trainer=cpu", "backbone=small_cnn", "backbone.widths=[4,8]", "backbone.depth=1", "data.num_workers=0"]
COMMON = [*NETWORK, "data.image_size=16", "strategy=full", "logger=none", "probe=false", "sweep.threads=1"]
TRIVIAL = [*COMMON, "data.limit_train=64", "epochs=1"]
EQUAL = [*COMMON, "epochs=5"]
KINDS = {  # sweeps of 24 jobs
    "grid": ["seed=0,1,2,3,4,5", "optimizer.lr=1e-1,3e-2,1e-2,1e-3"],
    "random": ["seed=0,1,2", "optimizer.lr=tag(log,interval(1e-3,1e-1))", "sweep=random", "sweep.trials=8"],
    "halving": ["seed=0,1,2", "optimizer.lr=3e-1,1e-1,7e-2,5e-2,3e-2,2e-2,1e-2,1e-3", "sweep=halving"],
}
TRIAL_TIMES = ("datetime_start", "datetime_complete")
TIMES = ("seconds", "peak_memory_mb")


def seeds(count: int) -> str:
    return f"seed={','.join(map(str, range(count)))}"


def sweep(folder: Path, arguments: list[str]) -> float:
    """Run a sweep in a new folder; return its wall time in seconds."""
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    subprocess.run([*COMMAND, "train", "-m", *arguments, f"sweep_dir={folder}"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def intervals(folder: Path) -> list[tuple[float, float]]:
    """When each run of a sweep began and ended, in seconds since the epoch, in the order of the beginnings."""
    statuses = [RunDirectory.open(path.parent).read_status() for path in folder.glob("*/config.yaml")]
    return sorted((status["started"], status["updated"]) for status in statuses)


def read_results(folder: Path) -> list[dict[str, str]]:
    """The table of a sweep without times and memory."""
    with (folder / "sweep.csv").open(newline="") as file:
        rows = [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]
    return sorted(rows, key=lambda row: row["run"])


def two_workers(folder: Path, rounds: int) -> list[list[str]]:
    """Wall time of 12 equal jobs with one and two workers, in turn, and of jobs whose lengths vary tenfold."""
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers in times:
            arguments = [*EQUAL, seeds(12), f"sweep.workers={workers}"]
            sweep(folder, arguments)
            runs = intervals(folder)
            times[workers].append(max(end for _, end in runs) - runs[0][0])
    ratio = median(times[2]) / median(times[1])
    sweep(folder, [*COMMON, "epochs=2,20", seeds(6), "sweep.workers=2"])
    trials = Sweep(folder).trials()
    starts, ends = ([getattr(trial, name).timestamp() for trial in trials] for name in TRIAL_TIMES)
    first_end = sorted(ends)[-2]  # the other worker trains its last job
    busy = sum(min(end, first_end) - start for start, end in zip(starts, ends, strict=True))
    idle = 1 - busy / (2 * (first_end - min(starts)))
    return [
        ["12 equal jobs: time of two workers over that of one", f"{ratio:.2f}"],
        ["jobs whose lengths vary tenfold: fraction of the workers' time without a job", f"{idle:.1%}"],
    ]


def overhead(folder: Path, count: int) -> list[list[str]]:
    """Time between two runs of one worker, and the total of many trivial jobs with two."""
    sweep(folder, [*TRIVIAL, seeds(20), "sweep.workers=1"])
    runs = intervals(folder)
    gaps = [start - end for (_, end), (start, _) in itertools.pairwise(runs)]
    total = sweep(folder, [*TRIVIAL, seeds(count), "sweep.workers=2"])
    training = sum(end - start for start, end in intervals(folder)) / 2
    return [
        ["time between the end of a run and the begin of the next one, mean of 19", f"{fmean(gaps):.2f} s"],
        [
            f"{count} trivial jobs, two workers: in all, and the runs alone",
            f"{total:.0f} s, {training:.0f} s",
        ],
    ]


def added_worker(folder: Path) -> list[list[str]]:
    """How soon a worker that is added to a running sweep takes a job, and trains it."""
    shutil.rmtree(folder, ignore_errors=True)
    arguments = ["train", "-m", *EQUAL, seeds(12), "sweep.workers=1", f"sweep_dir={folder}"]
    first = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL)
    while len(list(folder.glob("*/metrics.csv"))) < 2:
        time.sleep(0.1)
    study = Sweep(folder)
    before = {trial.number for trial in study.trials(TrialState.RUNNING, TrialState.COMPLETE)}
    start = time.time()
    second = subprocess.Popen([*COMMAND, "work", str(folder)], stdout=subprocess.DEVNULL)
    while len(study.trials(TrialState.RUNNING)) < 2:
        time.sleep(0.05)
    claimed = time.time() - start
    number = max(trial.number for trial in study.trials(TrialState.RUNNING) if trial.number not in before)
    while not (folder / f"{number:03d}" / "status.json").is_file():
        time.sleep(0.05)
    trained = time.time() - start
    assert first.wait() == second.wait() == 0
    return [["a worker that is added: until it takes a job, and until it trains", f"{claimed:.1f} s, {trained:.1f} s"]]


def kills(folder: Path, count: int, name: str) -> list[list[str]]:
    """Kill a sweep of 24 jobs with two workers again and again; compare its table with that of an uninterrupted one.

    Args:
        name: of its kind in KINDS.
    """
    arguments = [*TRIVIAL, "epochs=3", *KINDS[name], "sweep.workers=2"]
    sweep(folder / "whole", arguments)
    killed, rng, done = folder / "killed", random.Random(0), 0
    shutil.rmtree(killed, ignore_errors=True)
    while True:
        command = [*COMMAND, "train", "-m", *arguments, f"sweep_dir={killed}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(rng.uniform(7, 11) if done < count else None)
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
    runs = len(list(killed.glob("*/config.yaml")))
    same = "equal" if read_results(killed) == read_results(folder / "whole") else "DIFFERENT"
    return [[f"{name}, 24 jobs, {done} times SIGKILL of all: run directories, and the table", f"{runs}, {same}"]]


def ask_and_tell(folder: Path, count: int = 5000) -> list[list[str]]:
    """The time to take and to conclude a job, when the study has many."""
    shutil.rmtree(folder, ignore_errors=True)
    settings = Settings([], None, str(folder), 1, 1, 1, "cpu", fail_fast=False, max_retries=0)
    for name in ("grid", "tpe"):
        (folder / name).mkdir(parents=True)
    grid = Sweep.create(folder / "grid", settings, "maximize")
    grid.add([Job([f"seed={i}"], f"seed={i}", str(i), {"seed": float(i)}) for i in range(count)])
    space: dict[str, BaseDistribution] = {
        "optimizer.lr": FloatDistribution(1e-5, 1e-1, log=True),
        "strategy": CategoricalDistribution(("full", "lp_ft")),
        "epochs": IntDistribution(1, 30),
    }
    tpe = Sweep.create(folder / "tpe", settings, "maximize")
    Search("tpe", 0, "", [], [], {}, {key: distribution_to_json(item) for key, item in space.items()}).store(tpe.study)
    rng, job = random.Random(0), {"overrides": [], "text": "", "repeat": []}
    for i in range(count):
        params = {"optimizer.lr": 10 ** rng.uniform(-5, -1), "strategy": rng.choice(["full", "lp_ft"])}
        params["epochs"] = rng.randint(1, 30)
        facts = {"user_attrs": job | {"job": str(i), "suggestion": i}, "system_attrs": {"fixed_params": params}}
        trial = create_trial(params=params, distributions=space, value=rng.random(), **facts)  # type: ignore[arg-type]
        tpe.study.add_trial(trial)
    tpe.add([Job([], "", str(i), {}, {"suggestion": i, "repeat": []}) for i in range(count, count + 100)])
    return [
        [f"take and conclude a job among {count:,}, median of 100", f"{take_and_conclude(grid, 0):.0f} ms"],
        [f"the same in a search with tpe that has {count:,} finished jobs", f"{take_and_conclude(tpe, count):.0f} ms"],
    ]


def take_and_conclude(sweep: Sweep, first: int) -> float:
    """The median time of the next 100 jobs in milliseconds.

    Args:
        first: the number of the next job.
    """
    times = []
    for number in range(first, first + 100):
        start = time.perf_counter()
        with sweep.locks.schedule():
            trial = sweep.claim()
        times.append(time.perf_counter() - start)
        assert trial is not None and trial.number == number
        start = time.perf_counter()
        with sweep.locks.schedule():
            sweep.conclude(number, exit_code=1)
        times[-1] += time.perf_counter() - start
    return median(times) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("logs/sweep_benchmark"), help="of all sweeps")
    parser.add_argument("--kills", type=int, default=20, help="how often the sweep is killed")
    parser.add_argument("--trivial", type=int, default=200, help="number of trivial jobs")
    parser.add_argument("--rounds", type=int, default=1, help="how often one and two workers are compared")
    options = parser.parse_args()
    folder = options.folder.absolute()
    rows = ask_and_tell(folder / "study")
    rows += overhead(folder / "trivial", options.trivial)
    rows += two_workers(folder / "equal", options.rounds)
    rows += added_worker(folder / "added")
    for name in KINDS:
        rows += kills(folder / name, options.kills, name)
    text = f"{machine()}.\n\n{markdown(['', ''], rows)}"
    print(text)
    write_block("sweeps", text, DOCS / "sweeps.md")


if __name__ == "__main__":
    main()
