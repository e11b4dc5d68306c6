"""Successive halving, on scores alone."""

import math
import random
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from visiontune.sweeps.study.halving import JobScores, decide, rank

RUNGS = [1, 3]


def job(number: int, *scores: float, name: object = None, repeat: object = 0, **values: object) -> JobScores:
    """A job that waits with the scores of epochs 1, 2, ...; those that are not a number are missing."""
    known = {epoch: score for epoch, score in enumerate(scores, 1) if not math.isnan(score)}
    name = number if name is None else name
    return JobScores(number, name, repeat, known, len(scores), **values)  # type: ignore[arg-type]


def test_a_rung_is_decided_when_all_jobs_have_reached_it() -> None:
    jobs = [job(number, 0.1 * number) for number in range(8)]
    assert decide([*jobs, job(8)], RUNGS, 3).stops == {8: 1}
    running = job(8, 0.05, state=TrialState.RUNNING, stop=1)  # it has not paused yet
    assert decide([*jobs, running], RUNGS, 3).pruned == []
    decision = decide([*jobs, job(8, 0.05)], RUNGS, 3)
    assert decision.stops == {5: 3, 6: 3, 7: 3} and decision.pruned == [0, 1, 2, 3, 4, 8]
    jobs[5:] = [job(5, 0.5, 0.5, 0.9), job(6, 0.6, 0.6, 0.6), job(7, 0.7, 0.7, 0.7)]
    decision = decide([*jobs, job(8, 0.05)], RUNGS, 3)
    assert decision.stops == {5: None} and decision.pruned == [0, 1, 2, 3, 4, 8, 6, 7]


def test_the_best_score_so_far_counts_then_the_latest_then_the_number() -> None:
    assert rank([job(0, 0.5, 0.1, 0.1, 0.9), job(1, 0.4, 0.4, 0.4)], 3) == [0, 1]
    assert rank([job(0, 0.5, 0.1, 0.1), job(1, 0.1, 0.5, 0.2), job(2, 0.5, 0.5, 0.2)], 3) == [1, 2, 0]
    assert rank([job(0, math.nan), job(1, -1e9)], 1) == [1, 0]


def test_a_configuration_is_pruned_by_its_mean_and_not_by_an_unlucky_seed() -> None:
    scores = {"a": (0.9, 0.3, 0.9), "b": (0.6, 0.6, 0.6), "c": (0.1, 0.8, 0.5)}
    jobs = [
        job(3 * row + seed, score, name=name, repeat=seed)
        for row, (name, values) in enumerate(scores.items())
        for seed, score in enumerate(values)
    ]
    decision = decide(jobs, RUNGS, 3)
    assert decision.stops == {0: 3, 1: 3, 2: 3} and decision.pruned == [3, 4, 5, 6, 7, 8]


def test_a_configuration_with_a_failed_job_is_compared_with_the_others_on_the_same_folds() -> None:
    """Fold 1 is easy: without it, the mean of `b` is lower, though `b` is better than `a` on fold 0."""
    jobs = [job(0, 0.5, name="a"), job(1, 0.9, name="a", repeat=1), job(2, 0.6, name="b")]
    jobs.append(job(3, name="b", repeat=1, state=TrialState.FAIL))
    assert rank([job for job in jobs if job.epochs], 1) == ["b", "a"]
    decision = decide(jobs, RUNGS, 2)
    assert decision.stops == {2: 3} and decision.pruned == [0, 1]


def test_equal_means_are_ties_whatever_their_order() -> None:
    """0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ as floats."""
    jobs = [job(i, score, name="b", repeat=i) for i, score in enumerate((0.1, 0.2, 0.3))]
    jobs += [job(3 + i, score, name="a", repeat=i) for i, score in enumerate((0.3, 0.2, 0.1))]
    assert rank(jobs, 1) == ["b", "a"]


def test_jobs_that_stopped_early_or_failed_do_not_block_a_rung() -> None:
    jobs = [job(0, 0.5), job(1, 0.6), job(2, state=TrialState.FAIL), job(3, state=TrialState.FAIL)]
    assert decide(jobs, RUNGS, 2).stops == {1: 3}
    jobs = [job(0, 0.5, 0.5, 0.5), job(1, 0.9, 0.9, state=TrialState.COMPLETE, stop=3)]
    assert decide(jobs, [1, 3], 2).pruned == [0], "a run that has stopped early competes with its best score"


def test_jobs_that_are_added_compete_with_recorded_scores() -> None:
    """Jobs 0 to 5 have ended: the best of factor 3 has finished, another was pruned later."""
    ended = [job(number, 0.1 * number, state=TrialState.PRUNED, stop=1) for number in range(4)]
    ended += [
        job(4, *[0.7] * 3, state=TrialState.PRUNED, stop=3),
        job(5, *[0.9] * 9, state=TrialState.COMPLETE, stop=math.inf),
    ]
    assert decide([*ended, job(6), job(7)], RUNGS, 3).stops == {6: 1, 7: 1}
    decision = decide([*ended, job(6, 0.8), job(7, 0.05)], RUNGS, 3)
    assert decision.stops == {6: 3} and decision.pruned == [7]
    decision = decide([*ended, job(6, 0.8, 0.8, 0.8, stop=3), job(7, 0.05)], RUNGS, 3)
    assert decision.stops == {} and decision.pruned == [7, 6]


@pytest.mark.parametrize("seed", range(5))
def test_decisions_do_not_depend_on_workers_and_kills(seed: int) -> None:
    """Jobs train epoch by epoch, and are pruned one by one, in random order; any of them is interrupted at any time."""
    table = [[random.Random(100 * i + epoch).random() for epoch in range(9)] for i in range(24)]
    rng, jobs = random.Random(seed), [JobScores(i, i // 2, i % 2) for i in range(24)]
    while any(not job.state.is_finished() for job in jobs):
        decision = decide(jobs, RUNGS, 3)
        runnable = [number for number in decision.stops if not jobs[number].state.is_finished()]
        number = rng.choice([*runnable, *decision.pruned])
        now = jobs[number]
        if number in decision.pruned:
            jobs[number] = replace(now, state=TrialState.PRUNED)
            continue
        stop = decision.stops[number] or 9
        epochs = rng.randint(now.epochs + 1, stop)  # it is interrupted before its stop
        scores = {epoch + 1: score for epoch, score in enumerate(table[number][:epochs])}
        state = TrialState.COMPLETE if epochs == 9 else TrialState.WAITING
        jobs[number] = replace(now, scores=scores, epochs=epochs, state=state, stop=float(stop))
    ends = {name: sorted(job.configuration for job in jobs if job.epochs == name)[::2] for name in (1, 3, 9)}
    first = rank(jobs, 1)
    best = rank([job for job in jobs if job.configuration in first[:4]], 3)
    assert ends == {1: sorted(first[4:]), 3: sorted(best[1:]), 9: best[:1]}
