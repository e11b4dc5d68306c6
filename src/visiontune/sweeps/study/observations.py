"""What the sampler of a search sees: one observation for each suggestion, the mean over its seeds and folds."""

import heapq
from collections import defaultdict
from collections.abc import Container
from statistics import fmean
from typing import Any, NamedTuple

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

STATE = "sampler"  # attribute of a trial: what the sampler stores with the suggestion
BEST, LATEST = 25, 300  # TPE models 25 good ones at most, and older ones weigh less


class Drawn(NamedTuple):
    """The jobs whose values are drawn, and the number of the suggestion of each."""

    suggestions: list[int]
    jobs: list[FrozenTrial]


def read_drawn(study: Study, space: dict[str, BaseDistribution]) -> Drawn:
    """The jobs of a study whose values are drawn, in the order in which they were added."""
    jobs = [job for job in study.get_trials(deepcopy=False) if len(job.system_attrs["fixed_params"]) == len(space)]
    return Drawn([job.user_attrs["suggestion"] for job in jobs], jobs)


class Observations(InMemoryStorage):
    """A study in memory, whose trials are the suggestions of a search that have values.

    The objective of a suggestion is the mean over its jobs that have finished. Until one has, the suggestion runs, so
    that the sampler avoids its values. It sees the latest 300 suggestions and those of the best jobs before, which
    bounds the time of a draw.

    Attributes:
        attributes: what the sampler stores with the suggestion that it draws.
    """

    def __init__(self, search: Study, drawn: Drawn, space: dict[str, BaseDistribution], number: int) -> None:
        """Args:
        search: the study of the sweep.
        number: of the suggestion that is drawn.
        """
        super().__init__()
        self.attributes: dict[str, Any] = {}
        first = number - LATEST
        older = [job for item, job in zip(drawn.suggestions, drawn.jobs, strict=True) if item < first]
        best = _find_best(older, search.directions)
        jobs = defaultdict(list)
        for item, job in zip(drawn.suggestions, drawn.jobs, strict=True):
            if item >= first or item in best:
                jobs[item].append(job)
        observations = (_observe(item, jobs[item], space) for item in sorted(jobs))
        self._observations = [item for item in observations if item is not None]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [trial for trial in self._observations if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.attributes[key] = value


def build_observation(
    number: int, space: dict[str, BaseDistribution], params: dict[str, Any], state: TrialState, **values: Any
) -> FrozenTrial:
    """A suggestion as a trial of Optuna."""
    defaults: dict[str, Any] = {"values": None, "system_attrs": {}, "intermediate_values": {}}
    return FrozenTrial(
        number=number,
        state=state,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params=params,
        distributions=space,
        user_attrs={},
        trial_id=number,
        **(defaults | values),
    )


def _observe(number: int, jobs: list[FrozenTrial], space: dict[str, BaseDistribution]) -> FrozenTrial | None:
    """The observation of a suggestion; None if all its jobs have failed."""
    states = {job.state for job in jobs}
    values, reports = None, {}
    if finished := [job.values for job in jobs if job.state == TrialState.COMPLETE]:
        state = TrialState.COMPLETE
        values = [fmean(column) for column in zip(*finished, strict=True)]
    elif states & {TrialState.RUNNING, TrialState.WAITING}:
        state = TrialState.RUNNING
    elif TrialState.PRUNED in states:
        state = TrialState.PRUNED
        pruned = [job.intermediate_values for job in jobs if job.intermediate_values]
        steps = set.intersection(*map(set, pruned)) if pruned else set()
        reports = {step: fmean(report[step] for report in pruned) for step in sorted(steps)}
    else:
        return None
    stored: dict[str, Any] = next((job.system_attrs[STATE] for job in jobs if STATE in job.system_attrs), {})
    params = jobs[0].system_attrs["fixed_params"]
    return build_observation(
        number, space, params, state, values=values, system_attrs=stored, intermediate_values=reports
    )


def _find_best(trials: list[FrozenTrial], directions: list[StudyDirection]) -> set[int]:
    """The numbers of the suggestions of the best jobs in each objective."""
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best: set[int] = set()
    for i, direction in enumerate(directions):
        select = heapq.nlargest if direction == StudyDirection.MAXIMIZE else heapq.nsmallest
        jobs = select(BEST, finished, key=lambda trial: trial.values[i])
        best.update(trial.user_attrs["suggestion"] for trial in jobs)
    return best
