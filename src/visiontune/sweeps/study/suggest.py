"""The suggestions of a search: values of its keys, which a sampler of Optuna draws when a job is taken."""

import hashlib
import warnings
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

import optuna
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    check_distribution_compatibility,
    json_to_distribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from visiontune.config.distributions import describe_distribution
from visiontune.config.jobs import describe
from visiontune.config.space import write
from visiontune.config.zips import Zips
from visiontune.errors import UserError
from visiontune.sweeps.study.observations import STATE, Drawn, Observations, build_observation, read_drawn

ATTRIBUTE = "search"  # of the study


@dataclass(frozen=True)
class Search:
    """What a sampler needs, stored in the study.

    Attributes:
        sampler: `random`, `tpe` or `cmaes`.
        seed: of the suggestions, together with their number.
        config: the identity of the config of all jobs, without the keys that vary, the seed and the fold.
        start: the values of `sweep.start`.
        fixed: the overrides of all jobs.
        absent: see `Space`.
        distributions: key -> distribution as JSON.
        zips: see `Space`.
    """

    sampler: str
    seed: int
    config: str
    start: list[dict[str, Any]]
    fixed: list[str]
    absent: dict[str, list[str]]
    distributions: dict[str, str]
    zips: Zips = field(default_factory=dict)

    @classmethod
    def read(cls, study: Study) -> "Search | None":
        """The search of a study; None if it is a grid."""
        values = study.user_attrs.get(ATTRIBUTE)
        return values and cls(**values)

    def store(self, study: Study) -> None:
        study.set_user_attr(ATTRIBUTE, asdict(self))

    def space(self) -> dict[str, BaseDistribution]:
        return {key: json_to_distribution(text) for key, text in self.distributions.items()}


def check_sampler(search: Search, objectives: int) -> None:
    """Check that the sampler of a search is installed, can draw its keys, and handles so many objectives.

    Raises:
        UserError: it cannot.
    """
    if search.sampler != "cmaes":
        return
    if find_spec("cmaes") is None:
        raise UserError("sweep.sampler=cmaes needs cmaes, an extra of this package: pip install 'visiontune[cmaes]'")
    if objectives > 1:
        raise UserError("sweep.sampler=cmaes has one objective: write sweep.sampler=tpe, or one in sweep.objectives")
    for key, distribution in search.space().items():
        if isinstance(distribution, CategoricalDistribution):
            raise UserError(
                f"{key} has choices, and sweep.sampler=cmaes draws only numbers, such as interval(1e-4,1e-2): write "
                "sweep.sampler=tpe"
            )


def check_resumable(study: Study, search: Search | None) -> None:
    """Check that a sweep can be resumed with a search; more trials, seeds and wider intervals are allowed.

    Raises:
        UserError: the sweep is a grid, or another search.
    """
    before = Search.read(study)
    other = "write another sweep_dir=DIR"
    if (before is None) != (search is None):
        samplers = [item.sampler if item else "grid" for item in (search, before)]
        raise UserError(
            "sweep.sampler={}: the sweep in this directory has sweep.sampler={}; {}".format(*samplers, other)
        )
    if before is None or search is None:
        return
    if before.distributions.keys() != search.distributions.keys():
        raise UserError(
            f"the search in this directory varies {', '.join(before.distributions)}, and this one "
            f"{', '.join(search.distributions)}; {other}"
        )
    then, now = before.space(), search.space()
    for key in now:
        try:
            check_distribution_compatibility(then[key], now[key])
        except ValueError:
            words = " and this one has ".join(describe_distribution(space[key]) for space in (then, now))
            raise UserError(
                f"{key}: the search in this directory has {words}: choices and scales cannot change; {other}"
            ) from None
    if search.sampler == "cmaes" and then != now:
        raise UserError(f"sweep.sampler=cmaes: the intervals of a search in progress cannot change; {other}")
    if before.config != search.config:
        raise UserError(f"the search in this directory has another config of its jobs; {other}")
    if before.start != search.start:
        raise UserError(f"the search in this directory has sweep.start={before.start}; {other}")


def suggest(study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
    """Give the next trial its values and overrides, unless it has them; return its distributions.

    The values are written before the trial is taken, so that no other values are drawn if the worker is killed here.
    """
    search, attributes, fixed = Search.read(study), trial.user_attrs, trial.system_attrs["fixed_params"]
    if search is None:
        ranges = study.user_attrs["ranges"]
        return {key: FloatDistribution(*ranges[key]) for key in fixed}
    space = search.space()
    if missing := [key for key in space if key not in fixed]:
        number = attributes["suggestion"]
        drawn = read_drawn(study, space)
        if number in drawn.suggestions:  # it runs with another seed already
            values = drawn.jobs[drawn.suggestions.index(number)].system_attrs["fixed_params"]
        else:
            values = fixed | _draw(study, trial, search, drawn, missing)
        fixed = {key: values[key] for key in space}
        study._storage.set_trial_system_attr(trial._trial_id, "fixed_params", fixed)
    varied = [*attributes["repeat"], *write(fixed, search.absent, search.zips)]
    changed = {"text": describe(varied, []), "overrides": [*search.fixed, *varied]}
    for name, value in changed.items():
        if attributes[name] != value:
            study._storage.set_trial_user_attr(trial._trial_id, name, value)
    return space


def _draw(study: Study, trial: FrozenTrial, search: Search, drawn: Drawn, keys: list[str]) -> dict[str, Any]:
    """Draw the values of some keys; those of `random` depend only on the seed and the number of the suggestion."""
    number = trial.user_attrs["suggestion"]
    seed = int(hashlib.sha256(f"{search.seed} {number}".encode()).hexdigest()[:8], 16)
    space = search.space()
    independent, values = RandomSampler(seed), {}
    if search.sampler != "random" and len(keys) == len(space):
        observations = Observations(study, drawn, space, number)
        seen = optuna.create_study(storage=observations, directions=study.directions)
        suggestion = build_observation(number, space, {}, TrialState.RUNNING)
        several = {key: item for key, item in space.items() if not item.single()}
        values = _build_sampler(search.sampler, seed).sample_relative(seen, suggestion, several)
        if search.sampler == "cmaes":
            study._storage.set_trial_system_attr(trial._trial_id, STATE, observations.attributes)
    for key in keys:
        value = values[key] if key in values else independent.sample_independent(study, trial, key, space[key])
        values[key] = _shorten(value, space[key])
    return values


def _build_sampler(name: str, seed: int) -> BaseSampler:
    """The sampler of a search; it draws nothing before it has seen some observations."""
    if name == "cmaes":
        return CmaEsSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _shorten(value: Any, distribution: BaseDistribution) -> Any:
    """A float with four digits, which is easy to type again."""
    if not isinstance(distribution, FloatDistribution):
        return value
    if distribution.step is not None:
        return float(f"{value:.12g}")
    return min(max(float(f"{value:.4g}"), distribution.low), distribution.high)
