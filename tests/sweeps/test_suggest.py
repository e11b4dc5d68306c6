"""Searches: suggestions that depend on their number alone, starting points, repetitions, and how a search grows."""

import math
import multiprocessing
import os
from pathlib import Path
from statistics import fmean

import pytest
from omegaconf import OmegaConf

from visiontune.config.compose import initialized
from visiontune.config.jobs import read_space
from visiontune.config.space import Space
from visiontune.errors import UserError
from visiontune.sweeps.study.jobs import build_search, build_suggestions
from visiontune.sweeps.study.settings import Settings
from visiontune.sweeps.study.suggest import check_resumable
from visiontune.sweeps.study.sweep import Sweep

SETTINGS = Settings([], None, "/", 2, 1, 1, "cpu", fail_fast=False, max_retries=0)
LR = "optimizer.lr=tag(log,interval(1e-5,1e-1))"
KEYS = [LR, "strategy=gradual_unfreeze,full", "strategy.head_epochs=interval(1,3)"]


def read(*overrides: str) -> Space:
    with initialized(None):
        space = read_space("train", ["sweep=random", *overrides])
    assert space is not None
    return space


@pytest.fixture(scope="module")
def space() -> Space:
    return read(*KEYS)


def create(
    folder: Path, space: Space, trials: int, sampler: str = "random", start: tuple[dict[str, object], ...] = ()
) -> Sweep:
    """Create or resume a search."""
    folder.mkdir(exist_ok=True)
    search = build_search(space, OmegaConf.create({"sampler": sampler, "start": list(start)}))
    sweep = Sweep.create(folder, SETTINGS, "maximize")
    if sweep.trials():
        check_resumable(sweep.study, search)
    search.store(sweep.study)
    sweep.add(build_suggestions(space, search, trials))
    return sweep


def claim(sweep: Sweep) -> list[str]:
    """The overrides of the next job."""
    with sweep.locks.schedule():
        trial = sweep.claim()
    assert trial is not None
    return trial.user_attrs["overrides"]


def claim_all(sweep: Sweep) -> list[list[str]]:
    return [claim(sweep) for _ in sweep.trials()]


def test_random_suggestions_do_not_depend_on_who_takes_them(tmp_path: Path, space: Space) -> None:
    expected = claim_all(create(tmp_path / "one", space, 20))
    assert len({tuple(job) for job in expected}) == 20
    assert expected[0][1:] == ["optimizer.lr=0.0005", "strategy=gradual_unfreeze", "strategy.head_epochs=1"]
    lrs = [float(job[1].partition("=")[2]) for job in expected]
    assert min(lrs) < 1e-4 and max(lrs) > 1e-2 and all(1e-5 <= lr <= 1e-1 for lr in lrs)
    assert {(job[2], len(job)) for job in expected} == {("strategy=gradual_unfreeze", 4), ("strategy=full", 3)}

    sweep = create(tmp_path / "two", space, 12)
    first = [claim(sweep) for _ in range(5)]

    def work() -> None:
        other = Sweep(tmp_path / "two")
        os._exit(int([claim(other) for _ in range(4)] != expected[5:9]))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert create(tmp_path / "two", space, 20).trials()[19].number == 19
    rest = [claim(sweep) for _ in range(15)]  # the jobs of the other process wait again
    assert first + rest == expected


@pytest.mark.parametrize("name", ["set_trial_system_attr", "set_trial_user_attr", "set_trial_state_values"])
def test_a_claim_that_is_killed_draws_no_other_values(
    tmp_path: Path, space: Space, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    expected = claim_all(create(tmp_path / "whole", space, 3, "tpe"))
    sweep = create(tmp_path / "killed", space, 3, "tpe")
    jobs = [claim(sweep)]
    storage = sweep.study._storage
    original = getattr(storage, name)

    def kill(*arguments: object, **options: object) -> None:
        original(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, name, kill)
        with pytest.raises(KeyboardInterrupt):
            claim(sweep)
    jobs += [claim(sweep), claim(sweep)]
    assert jobs == expected
    assert [trial.params["optimizer.lr"] for trial in sweep.trials()] == [
        float(job[1].partition("=")[2]) for job in expected
    ]


@pytest.mark.slow
def test_tpe_prefers_what_was_good(tmp_path: Path) -> None:
    space, distances = read(LR, "strategy=gradual_unfreeze,full"), {}
    for sampler in ("random", "tpe"):
        sweep = create(tmp_path / sampler, space, 30, sampler)
        for number in range(30):
            claim(sweep)
            params = sweep.trials()[number].params
            distance = abs(math.log10(params["optimizer.lr"] / 1e-3)) + (params["strategy"] == "full")
            sweep.study.tell(number, -distance)
            distances.setdefault(sampler, []).append(distance)
    assert distances["tpe"][1:10] == distances["random"][1:10]  # it begins at random
    assert fmean(distances["tpe"][15:]) < 0.75 * fmean(distances["random"][15:])


def test_each_suggestion_runs_with_every_seed_and_seeds_can_be_added(tmp_path: Path) -> None:
    sweep = create(tmp_path, read(LR, "seed=0,1"), 2)
    jobs = claim_all(sweep)
    assert [job[1] for job in jobs] == ["seed=0", "seed=1"] * 2
    assert jobs[0][2] == jobs[1][2] == "optimizer.lr=0.0005" and jobs[2][2] == jobs[3][2] != jobs[0][2]
    assert [trial.user_attrs["text"] for trial in sweep.trials()][1] == "seed=1 optimizer.lr=0.0005"
    for number in range(4):
        sweep.study.tell(number, 0.5)
    sweep = create(tmp_path, read(LR, "seed=0,1,2"), 2)
    assert len(sweep.trials()) == 6
    assert [claim(sweep)[1:], claim(sweep)[1:]] == [["seed=2", "optimizer.lr=0.0005"], ["seed=2", jobs[2][2]]]


def test_starting_points_and_failed_jobs_keep_their_values(tmp_path: Path, space: Space) -> None:
    start = ({"optimizer.lr": 2e-3, "strategy": "full"}, {"strategy.head_epochs": 3})
    sweep = create(tmp_path, space, 4, start=start)
    jobs = claim_all(sweep)
    assert jobs[1][1:] == ["optimizer.lr=0.002", "strategy=full"]
    assert sweep.trials()[2].params["strategy.head_epochs"] == 3
    for number in range(4):
        sweep.conclude(number, exit_code=1)
        sweep.locks.release(number)
    create(tmp_path, space, 4, start=start)  # the same command again
    assert [claim(sweep) for _ in range(4)] == jobs
    with pytest.raises(UserError, match=r"sweep\.start: optimizer\.lr=1 is not in 1e-05 to 0\.1 on a log scale"):
        create(tmp_path / "other", space, 4, start=({"optimizer.lr": 1},))
    with pytest.raises(UserError, match="the search does not vary epochs"):
        create(tmp_path / "other", space, 4, start=({"epochs": 1},))


def test_what_cannot_change(tmp_path: Path) -> None:
    create(tmp_path, read(LR, "strategy=full,lp_ft"), 1)
    for overrides, message in (
        ([LR, "strategy=full,lp_ft,last_k"], "strategy: the search in this directory has full, lp_ft and this one has"),
        (
            ["optimizer.lr=interval(1e-5,1e-1)", "strategy=full,lp_ft"],
            "optimizer.lr: .* choices and scales cannot change",
        ),
        ([LR], "varies optimizer.lr, strategy, and this one optimizer.lr"),
        ([LR, "strategy=full,lp_ft", "epochs=3"], "another config"),
    ):
        with pytest.raises(UserError, match=message):
            create(tmp_path, read(*overrides), 1)
    with pytest.raises(UserError, match=r"sweep\.sampler=grid: the sweep in this directory has .*=random"):
        check_resumable(Sweep(tmp_path).study, None)
    wider = read("optimizer.lr=tag(log,interval(1e-6,1))", "strategy=full,lp_ft", "sweep.workers=1")
    assert len(create(tmp_path, wider, 3).trials()) == 3
