"""The study of a sweep: jobs that are queued, taken, finished, failed, killed and resumed."""

import multiprocessing
import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from optuna.trial import TrialState

from visiontune.errors import RunError, UserError
from visiontune.runs import RunDirectory
from visiontune.runs.files import write_json
from visiontune.sweeps.study.paths import output_path, run_path
from visiontune.sweeps.study.settings import Settings
from visiontune.sweeps.study.sweep import Job, Sweep
from visiontune.sweeps.work import check_done

SETTINGS = Settings(
    overrides=["seed=0,1,2"],
    config_dir=None,
    working_directory="/",
    workers=2,
    threads=1,
    devices=1,
    accelerator="cpu",
    fail_fast=False,
    max_retries=0,
)


def jobs(*seeds: int) -> list[Job]:
    return [Job([f"seed={seed}"], f"seed={seed}", f"job{seed}", {"seed": float(seed)}) for seed in seeds]


def create(folder: Path, *seeds: int, max_retries: int = 0) -> Sweep:
    sweep = Sweep.create(folder, SETTINGS, "maximize")
    sweep.settings = Settings(**(vars(SETTINGS) | {"max_retries": max_retries}))
    assert sweep.add(jobs(*seeds)) == len(seeds)
    return sweep


def claim(sweep: Sweep) -> int | None:
    with sweep.locks.schedule():
        trial = sweep.claim()
    return None if trial is None else trial.number


def write_run(sweep: Sweep, number: int, status: str, **values: object) -> None:
    """What the process of a job leaves in its run directory."""
    run = RunDirectory.create(run_path(sweep.path, number))
    run.write_config(OmegaConf.create({"seed": number}))
    write_json(run.status, {"status": status, **values})


def objective(value: float) -> dict[str, object]:
    return {"name": "val/x/score", "mode": "max", "value": value, "epoch": 1}


def states(sweep: Sweep) -> list[str]:
    return [trial.state.name for trial in sweep.trials()]


def test_the_settings_of_older_sweeps_are_read(tmp_path: Path) -> None:
    SETTINGS.write(tmp_path)
    assert Settings.read(tmp_path) == SETTINGS
    path = tmp_path / "sweep.yaml"
    path.write_text(path.read_text().replace("max_hours: null\n", ""))
    assert "max_hours" not in path.read_text() and Settings.read(tmp_path) == SETTINGS


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("workers:", "wokers:", "unknown keys: wokers; expected overrides, config_dir, "),
        ("workers: 2\n", "", "missing keys: workers"),
        ("workers: 2", "workers: [2]", "workers=[2]: expected int"),
        ("fail_fast: false", "fail_fast: 0", "fail_fast=0: expected bool"),
        ("- seed=0,1,2", "- 7", "overrides=[7]: expected list[str]"),
        ("max_hours: null", "max_hours: much", "max_hours=much: expected float | None"),
    ],
)
def test_wrong_settings_are_one_message(tmp_path: Path, before: str, after: str, message: str) -> None:
    SETTINGS.write(tmp_path)
    path = tmp_path / "sweep.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(UserError) as error:
        Settings.read(tmp_path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_jobs_are_taken_in_order_and_once(tmp_path: Path) -> None:
    sweep = create(tmp_path, 3, 5)
    assert [claim(sweep), claim(sweep), claim(sweep)] == [0, 1, None]
    assert [trial.params for trial in sweep.trials()] == [{"seed": 3.0}, {"seed": 5.0}]
    assert states(sweep) == ["RUNNING", "RUNNING"]


def test_no_job_is_taken_after_the_time_of_the_command(tmp_path: Path) -> None:
    sweep = create(tmp_path, 0, 1)
    sweep.settings = replace(SETTINGS, max_hours=1e-9)
    assert claim(sweep) is None and sweep.is_done()
    sweep.settings = replace(SETTINGS, max_hours=1)
    assert claim(sweep) == 0 and not sweep.is_done()


def test_jobs_that_wait_or_have_failed_are_an_error(tmp_path: Path) -> None:
    sweep = create(tmp_path, 0, 1, 2)
    sweep.settings = replace(SETTINGS, max_hours=1e-9)
    with pytest.raises(RunError) as error:
        check_done(sweep)
    assert str(error.value) == f"3 jobs wait after sweep.max_hours=1e-09\nRun them with: visiontune work {tmp_path}"
    sweep.settings = SETTINGS
    for number, status in enumerate(("finished", "finished", "failed")):
        assert claim(sweep) == number
        write_run(sweep, number, status, objective=objective(0.5), error="no")
        sweep.conclude(number, exit_code=0)
        sweep.locks.release(number)
    with pytest.raises(RunError, match=r"1 job has failed:\n  002: no\nRun them with"):
        check_done(sweep)
    assert sweep.requeue_failed() == 1 and claim(sweep) == 3
    check_done(sweep)  # a job of another worker may run


def test_no_job_is_taken_after_all_runs_have_trained_the_epochs_of_the_sweep(tmp_path: Path) -> None:
    sweep = create(tmp_path, 0, 1, 2)
    sweep.settings = replace(SETTINGS, max_epochs=5)
    for number, status in ((0, "failed"), (1, "finished")):
        assert claim(sweep) == number
        write_run(sweep, number, status, objective=objective(0.5), error="ValueError: no")
        (run_path(tmp_path, number) / "metrics.csv").write_text("epoch,seconds\n0,1\n1,2\n2,3\n3,4\n")
        sweep.conclude(number, exit_code=number)
        sweep.locks.release(number)
    assert claim(sweep) is None and sweep.is_done()
    with pytest.raises(
        RunError, match=r"1 job waits after sweep\.max_epochs=5\nRun them with: the same command, and a larg"
    ):
        check_done(sweep)
    sweep.settings = replace(SETTINGS, max_epochs=7)
    assert claim(sweep) == 2


def test_only_new_and_failed_jobs_are_added(tmp_path: Path) -> None:
    sweep = create(tmp_path, 0, 1)
    claim(sweep)
    write_run(sweep, 0, "failed", error="ValueError: no\nmore")
    assert sweep.conclude(0, exit_code=1).user_attrs["error"] == "ValueError: no"
    sweep.locks.release(0)
    assert sweep.add(jobs(0, 1, 2)) == 2  # job 1 waits already
    assert [trial.user_attrs["job"] for trial in sweep.trials()] == ["job0", "job1", "job0", "job2"]
    assert [trial.number for trial in sweep.latest()] == [2, 1, 3]
    assert [claim(sweep) for _ in range(3)] == [1, 2, 3]


def test_a_finished_run_counts_though_its_worker_was_killed(tmp_path: Path) -> None:
    sweep = create(tmp_path, 0, 1)
    claim(sweep)
    write_run(sweep, 0, "finished", objective=objective(0.75))
    sweep.locks.release(0)  # what the end of a process does
    assert claim(sweep) == 1
    assert states(sweep) == ["COMPLETE", "RUNNING"] and sweep.trials()[0].value == 0.75


@pytest.mark.parametrize("has_run", [True, False])
def test_an_interrupted_job_waits_under_its_number(tmp_path: Path, has_run: bool) -> None:
    sweep = create(tmp_path, 0, 1)
    claim(sweep)
    if has_run:
        write_run(sweep, 0, "interrupted")
    else:
        RunDirectory.create(run_path(sweep.path, 0))  # killed before its config was written
    sweep.locks.release(0)
    assert claim(sweep) == 0 and run_path(sweep.path, 0).is_dir() == has_run
    assert sweep.trials()[0].user_attrs["attempts"] == 0


@pytest.mark.parametrize(
    ("exit_code", "error"),
    [
        (-signal.SIGKILL, "killed by SIGKILL: the system may have run out of memory"),
        (128 + signal.SIGTERM, "stopped by SIGTERM"),
    ],
)
def test_a_killed_job_is_resumed_as_often_as_allowed(tmp_path: Path, exit_code: int, error: str) -> None:
    sweep = create(tmp_path, 0, max_retries=1)
    for expected in (TrialState.WAITING, TrialState.FAIL):
        assert claim(sweep) == 0
        assert sweep.conclude(0, exit_code=exit_code).state == expected
        sweep.locks.release(0)
    assert sweep.trials()[0].user_attrs["error"] == error
    assert claim(sweep) is None and sweep.requeue_failed() == 1 and claim(sweep) == 1


def test_a_job_without_memory_is_retried_and_another_error_is_not(tmp_path: Path) -> None:
    sweep = create(tmp_path, 0, 1, max_retries=1)
    assert [claim(sweep), claim(sweep)] == [0, 1]
    for number, error, state in ((0, "OutOfMemoryError: CUDA", "WAITING"), (1, "ValueError: no", "FAIL")):
        write_run(sweep, number, "failed", error=error)
        assert sweep.conclude(number, exit_code=1).state.name == state


def test_the_error_of_a_job_without_a_run_is_what_it_printed(tmp_path: Path) -> None:
    sweep = create(tmp_path, 0)
    claim(sweep)
    output_path(sweep.path, 0).write_text("noise\nerror: data.root: there is no folder\n")
    sweep.conclude(0, exit_code=2)
    (entry,) = sweep.entries()
    assert entry.status["status"] == "failed" and entry.error == "data.root: there is no folder"


def test_an_objective_that_is_not_finite_is_a_failure(tmp_path: Path) -> None:
    sweep = create(tmp_path, 0)
    claim(sweep)
    run = RunDirectory.create(run_path(sweep.path, 0))
    run.write_config(OmegaConf.create({"seed": 0}))
    run.status.write_text('{"status": "finished", "objective": {"name": "a", "mode": "max", "value": NaN, "epoch": 1}}')
    assert sweep.conclude(0, exit_code=0).user_attrs["error"] == "a is nan: expected a finite number"


def test_another_process_sees_the_locks_and_takes_the_next_job(tmp_path: Path) -> None:
    sweep = create(tmp_path, 0, 1, 2)
    assert claim(sweep) == 0
    queue = multiprocessing.get_context("fork").SimpleQueue()

    def work() -> None:
        other = Sweep(tmp_path)
        queue.put((claim(other), other.requeue_failed(), claim(other)))
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert queue.get() == (1, 0, 2)
    assert claim(sweep) == 1, "the other process has ended, and its jobs wait again"


def test_an_incomplete_line_is_removed(tmp_path: Path) -> None:
    sweep = create(tmp_path, 0, 1)
    journal = tmp_path / "study.journal"
    length = journal.stat().st_size
    with journal.open("ab") as file:
        file.write(b'{"op_code":6,"trial_id":0,"sta')
    assert states(Sweep(tmp_path)) == ["WAITING", "WAITING"]
    assert claim(sweep) == 0
    assert journal.read_bytes()[length : length + 13] == b'{"op_code":6,' and b'"sta{' not in journal.read_bytes()
    assert states(Sweep(tmp_path)) == ["RUNNING", "WAITING"]


def test_a_sweep_has_one_command(tmp_path: Path) -> None:
    sweep = create(tmp_path, 0)

    def start() -> None:
        try:
            with Sweep(tmp_path).locks.command():
                os._exit(0)
        except UserError as error:
            os._exit(3 if str(error).startswith(f"another command runs the sweep in {tmp_path}: help it") else 4)

    codes = []
    for is_running in (True, False):
        with sweep.locks.command() if is_running else nullcontext():
            process = multiprocessing.get_context("fork").Process(target=start)
            process.start()
            process.join()
            codes.append(process.exitcode)
    assert codes == [3, 0]
