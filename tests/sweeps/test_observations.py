"""What samplers see: means over repetitions, suggestions that run, and the state of CMA-ES."""

import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from optuna.trial import TrialState
from test_suggest import LR, claim, create, read

from visiontune.errors import UserError
from visiontune.sweeps.study import observations as module
from visiontune.sweeps.study import suggest
from visiontune.sweeps.study.jobs import build_search
from visiontune.sweeps.study.observations import Observations, read_drawn
from visiontune.sweeps.study.suggest import Search, check_resumable, check_sampler
from visiontune.sweeps.study.sweep import Sweep

DECAY = "optimizer.weight_decay=tag(log,interval(1e-5,1e-1))"


def observe(sweep: Sweep) -> list[tuple[int, str, Any]]:
    """The number, the state and the values of each observation."""
    search = Search.read(sweep.study)
    assert search is not None
    space = search.space()
    observations = Observations(sweep.study, read_drawn(sweep.study, space), space, len(sweep.trials()))
    trials = observations.get_all_trials(0)
    return [(trial.number, trial.state.name, trial.values) for trial in trials]


def lrs(sweep: Sweep) -> list[float]:
    return [trial.params["optimizer.lr"] for trial in sweep.trials() if trial.params]


def score(lr: float) -> float:
    return -abs(math.log10(lr / 2e-3))


def test_a_suggestion_has_the_mean_of_its_finished_jobs(tmp_path: Path) -> None:
    sweep = create(tmp_path, read(LR, "seed=0,1"), 5, "tpe")
    for _ in range(7):
        claim(sweep)
    sweep.study.tell(0, 0.5)
    sweep.study.tell(1, 0.7)
    sweep.study.tell(2, 0.25)
    sweep.conclude(4, exit_code=1)
    sweep.conclude(5, exit_code=1)
    assert observe(sweep) == [(0, "COMPLETE", [0.6]), (1, "COMPLETE", [0.25]), (3, "RUNNING", None)]
    sweep.conclude(6, stopped=True)  # it waits, with its values
    assert observe(sweep)[2] == (3, "RUNNING", None)
    sweep.conclude(3, stopped=True)
    for number in range(7):
        sweep.locks.release(number)
    with sweep.locks.schedule():
        assert sweep.requeue_failed() == 2
    assert observe(sweep)[2] == (2, "RUNNING", None), "a failed job that runs again"


def test_tpe_with_two_seeds_draws_what_it_draws_with_their_means(tmp_path: Path) -> None:
    single, double = (
        create(tmp_path / "1", read(LR), 15, "tpe"),
        create(tmp_path / "2", read(LR, "seed=42,1"), 15, "tpe"),
    )
    for number in range(15):
        claim(single)
        claim(double)
        claim(double)
        value = score(lrs(single)[number])
        single.study.tell(number, value)
        double.study.tell(2 * number, value + 3 * (-1) ** number)
        double.study.tell(2 * number + 1, value - 3 * (-1) ** number)
    assert lrs(double)[::2] == lrs(double)[1::2] == lrs(single)
    assert fmean(map(score, lrs(single)[10:])) > fmean(map(score, lrs(single)[:10]))


def test_only_the_best_and_the_latest_of_many_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEST", 1)
    monkeypatch.setattr(module, "LATEST", 2 + 1)
    sweep = create(tmp_path, read(LR), 5, "tpe")
    for number, value in enumerate((0.1, 0.9, 0.3, 0.2)):
        claim(sweep)
        sweep.study.tell(number, value)
    assert [number for number, _, _ in observe(sweep)] == [1, 2, 3]


def test_cmaes_finds_the_best_numbers_and_continues_in_another_process(tmp_path: Path) -> None:
    space = read(LR, DECAY)
    sweep, distances = create(tmp_path, space, 40, "cmaes"), []
    for number in range(40):
        if number == 20:
            sweep = Sweep(tmp_path)  # as a worker that has just started
        claim(sweep)
        params = sweep.trials()[number].params
        decay = abs(math.log10(params["optimizer.weight_decay"] / 1e-3))
        distances.append(decay - score(params["optimizer.lr"]))
        sweep.study.tell(number, -distances[-1])
    assert fmean(distances[30:]) < 0.5 * fmean(distances[:10])


def test_a_killed_draw_of_cmaes_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, draws = read(LR, DECAY), []
    for name in ("whole", "killed"):
        sweep = create(tmp_path / name, space, 8, "cmaes")
        for number in range(7):
            claim(sweep)
            sweep.study.tell(number, number / 10)
        storage = sweep.study._storage
        original = storage.set_trial_system_attr

        def kill(*arguments: Any, original: Any = original) -> None:
            original(*arguments)
            raise KeyboardInterrupt

        if name == "killed":
            with monkeypatch.context() as patch:
                patch.setattr(storage, "set_trial_system_attr", kill)
                with pytest.raises(KeyboardInterrupt):
                    claim(sweep)
        draws.append(claim(sweep))
        trial = sweep.trials()[7]
        assert trial.state == TrialState.RUNNING and "cma:optimizer:0" in trial.system_attrs["sampler"]
    assert draws[0] == draws[1]


def test_what_cmaes_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = read("sweep.sampler=cmaes", LR).cfg.sweep
    with pytest.raises(UserError, match=r"strategy has choices, and sweep\.sampler=cmaes draws only numbers"):
        check_sampler(build_search(read("sweep.sampler=cmaes", LR, "strategy=full,lp_ft"), options), 1)
    with pytest.raises(UserError, match=r"sweep\.sampler=cmaes has one objective: write sweep\.sampler=tpe"):
        check_sampler(build_search(read(LR), options), 2)
    sweep = create(tmp_path, read(LR), 2, "cmaes")
    with pytest.raises(UserError, match="the intervals of a search in progress cannot change"):
        check_resumable(sweep.study, build_search(read("optimizer.lr=tag(log,interval(1e-6,1))"), options))
    monkeypatch.setattr(suggest, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs cmaes, an extra of this package: pip install 'visiontune\[cmaes\]'"):
        check_sampler(build_search(read(LR), options), 1)
