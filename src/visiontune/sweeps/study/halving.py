"""Successive halving: which jobs train on, and which are pruned.

All configurations train up to the first rung, which is a number of epochs. The best 1/factor of them train up to the
next rung, and so on (Jamieson and Talwalkar 2016). A rung is decided when all of its jobs have reached it, by their
scores alone, so the decision depends neither on the number of workers nor on the order of the jobs.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from statistics import mean

from optuna.trial import TrialState


@dataclass(frozen=True)
class JobScores:
    """What halving knows about a job.

    Attributes:
        number: of its trial.
        configuration: equal for jobs that differ only in seed and fold.
        repeat: its seed and fold.
        scores: epoch -> score, finite and higher for a better one.
        epochs: number of epochs that it has trained.
        state: of its trial.
        stop: the number of epochs up to which it was started; 0 if it never was, infinite for the end.
    """

    number: int
    configuration: Hashable
    repeat: Hashable = ()
    scores: Mapping[int, float] = field(default_factory=dict)
    epochs: int = 0
    state: TrialState = TrialState.WAITING
    stop: float = 0

    def has_reached(self, rung: int) -> bool:
        """Whether nothing more is to come from this job up to a rung."""
        if self.state == TrialState.RUNNING:
            return self.stop > rung
        return self.state.is_finished() or self.epochs >= rung


@dataclass(frozen=True)
class Decision:
    """What becomes of the jobs; those in neither wait for others.

    Attributes:
        stops: number of a job -> the number of epochs after which it pauses; None lets it train to its end.
        pruned: numbers of jobs.
    """

    stops: dict[int, int | None]
    pruned: list[int]


def decide(jobs: Iterable[JobScores], rungs: Sequence[int], factor: int) -> Decision:
    """Decide which jobs train on, and which are pruned.

    Args:
        rungs: numbers of epochs, rising.
        factor: of the configurations in a rung, 1 / factor train on, rounded down, but at least one.
    """
    members = list(jobs)
    pruned: list[int] = []
    for rung in rungs:
        behind = [job for job in members if not job.has_reached(rung)]
        if behind:
            return Decision({job.number: rung for job in behind}, pruned)
        promoted = promote(members, rung, factor)
        out = [job for job in members if job.configuration not in promoted]
        pruned += [job.number for job in out if not job.state.is_finished()]
        members = [job for job in members if job.configuration in promoted]
    return Decision({job.number: None for job in members if not job.state.is_finished()}, pruned)


def promote(jobs: Sequence[JobScores], rung: int, factor: int) -> set[Hashable]:
    """The configurations that train on after a rung.

    Jobs that were added later compete with the scores of earlier ones: decisions of the past stay, and what is new
    trains on if it is among the best 1 / factor of all.
    """
    ranking = rank([job for job in jobs if job.epochs >= rung or job.state == TrialState.COMPLETE], rung)
    best = set(ranking[: max(1, len(ranking) // factor)])
    before = {job.configuration for job in jobs if job.stop > rung}
    out = {job.configuration for job in jobs if job.state == TrialState.PRUNED and job.epochs <= rung}
    return before | (best - out)


def rank(jobs: Sequence[JobScores], rung: int) -> list[Hashable]:
    """The configurations of some jobs by their scores up to a rung, the best first.

    A job counts by its best score so far, which is the objective of a run that would end here, and a configuration by
    the mean difference from all jobs with the same seed and fold. This is the order of the means if all configurations
    have the same seeds and folds; if a job has failed, its configuration is still compared fairly. Ties are broken by
    the scores of the rung's epoch, then by the number of the job. A configuration with a job without a score is last.
    """
    scores = {job.number: [job.scores[epoch] for epoch in sorted(job.scores) if epoch <= rung] for job in jobs}
    best = _mean_differences([(job, max(scores[job.number])) for job in jobs if scores[job.number]])
    latest = _mean_differences([(job, scores[job.number][-1]) for job in jobs if scores[job.number]])
    without = {job.configuration for job in jobs if not scores[job.number]}
    first: dict[Hashable, int] = {}
    for job in jobs:
        first[job.configuration] = min(job.number, first.get(job.configuration, job.number))
    return sorted(first, key=lambda name: (name in without, -best.get(name, 0), -latest.get(name, 0), first[name]))


def _mean_differences(scores: Sequence[tuple[JobScores, float]]) -> dict[Hashable, Fraction]:
    """Configuration -> mean difference of its scores from the mean of their seed and fold, without rounding."""
    repeats: dict[Hashable, list[Fraction]] = defaultdict(list)
    for job, score in scores:
        repeats[job.repeat].append(_exact(score))
    means = {name: mean(values) for name, values in repeats.items()}
    differences: dict[Hashable, list[Fraction]] = defaultdict(list)
    for job, score in scores:
        differences[job.configuration].append(_exact(score) - means[job.repeat])
    return {name: mean(values) for name, values in differences.items()}


@cache
def _exact(score: float) -> Fraction:
    """A number as it is printed, so that equal sums are equal in any order."""
    return Fraction(str(score))
