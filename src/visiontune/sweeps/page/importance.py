"""How much each key of a sweep matters for the objective."""

import math

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import create_trial

from visiontune.sweeps.page.axes import Axis

MIN_RUNS = 8
TREES, DEPTH = 32, 8  # Optuna's 64 and 64 have shares within 0.01 of these for 1,000 runs, and take 15 times as long
MAX_CATEGORIES = 30  # a key with more, such as a path for each run, names runs and does not explain them


def key_importance(axes: list[Axis], objective: list[float]) -> dict[str, float]:
    """The share of the objective's variance that each key explains on its own, the largest first.

    fANOVA (Hutter, Hoos and Leyton-Brown 2014), as Optuna computes it with a random forest. The shares add up to at
    most 1, the rest belongs to combinations of keys. Runs whose objective is not finite do not count. A key is left out
    if a run has no number for it, or if it has more than `MAX_CATEGORIES` categories.

    Args:
        objective: of each run.

    Returns:
        Nothing for fewer than `MIN_RUNS` runs, and where neither a key nor the objective varies.
    """
    runs = [run for run, value in enumerate(objective) if math.isfinite(value)]
    values = [objective[run] for run in runs]
    columns = [Axis(axis.key, [axis.values[run] for run in runs], axis.categories, axis.log) for axis in axes]
    columns = [axis for axis in columns if axis.is_complete and axis.varies and len(axis.categories) <= MAX_CATEGORIES]
    if len(runs) < MIN_RUNS or not columns or min(values) == max(values):
        return {}
    distributions = {axis.key: _distribution(axis) for axis in columns}
    rows = zip(*(_coordinates(axis) for axis in columns), strict=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    study.add_trials(
        [
            create_trial(params=dict(zip(distributions, row, strict=True)), distributions=distributions, value=value)
            for row, value in zip(rows, values, strict=True)
        ]
    )
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=0)
    return {key: float(share) for key, share in evaluator.evaluate(study).items()}  # not scaled to a sum of 1


def _coordinates(axis: Axis) -> list[float]:
    """The values of a complete axis; Optuna's fANOVA ignores that a distribution is logarithmic."""
    values = [value for value in axis.values if value is not None]
    return [math.log10(value) for value in values] if axis.log else values


def _distribution(axis: Axis) -> BaseDistribution:
    values = _coordinates(axis)
    return (
        CategoricalDistribution(sorted(set(values))) if axis.categories else FloatDistribution(min(values), max(values))
    )
