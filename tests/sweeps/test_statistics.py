"""Means and differences of groups of runs: rates of false claims, intervals, power, and unusual scores.

The slow tests simulate 1,000 sweeps in each situation.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from visiontune.sweeps.comparison.differences import adjust_holm
from visiontune.sweeps.comparison.statistics import GroupSummary, compare_groups

Scores = NDArray[np.float64]
MOST_FALSE_CLAIMS = 0.064  # two standard errors above 5% in 1,000 sweeps


def compare(scores: Scores, baseline: int | None = None, overlap: float = 0.0) -> list[GroupSummary]:
    """The summaries of groups with scores (G, N), in the order of the groups; NaN for missing."""
    groups = {group: dict(enumerate(row)) for group, row in enumerate(scores.tolist())}
    return sorted(compare_groups(groups, overlap=overlap, baseline=baseline), key=lambda group: group.name)


def claims(summaries: list[GroupSummary]) -> list[int]:
    return [int(group.name) for group in summaries if group.verdict in ("worse", "better")]


class Rates(NamedTuple):
    """Shares over sweeps: with any claim, intervals of means that cover, and tables whose differences all cover."""

    claims: float
    means: float
    differences: float


def simulate(sweeps: Scores, baseline: int | None = None, overlap: float = 0.0, truth: float = 0.0) -> Rates:
    """Compare the groups of sweeps, (R, G, N), whose true means are all equal to `truth`."""
    tables = [compare(scores, baseline, overlap) for scores in sweeps]
    differences = [[group.difference for group in table if not math.isnan(group.difference.value)] for table in tables]
    return Rates(
        float(np.mean([bool(claims(table)) for table in tables])),
        float(np.mean([group.mean.low <= truth <= group.mean.high for table in tables for group in table])),
        float(np.mean([all(interval.low <= 0 <= interval.high for interval in table) for table in differences])),
    )


def draw(count: int, groups: int, repeats: int, seed: int = 0) -> Scores:
    """Scores of sweeps without a difference; the repeats are not equally hard."""
    random = np.random.default_rng(seed)
    return random.normal(size=(count, groups, repeats)) + 2 * random.normal(size=(count, 1, repeats))


def draw_folds(count: int, groups: int, folds: int, seed: int = 0) -> Scores:
    """Scores whose correlation is n_test / n_total, as Nadeau and Bengio assume for overlapping training splits."""
    random, correlation = np.random.default_rng(seed), 1 / folds
    shared = random.normal(size=(count, groups, 1))
    return np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * random.normal(size=(count, groups, folds))


def cross_validate(count: int, groups: int, folds: int, seeds: int = 1, samples: int = 100, seed: int = 0) -> Scores:
    """Accuracies (R, G, seeds * folds) of least-squares classifiers, trained and tested on folds of the same samples.

    Each group sees three features of its own, which tell the class equally well, so the groups do not differ. Each
    seed draws other folds.
    """
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, groups, samples, 3))
    label = np.sign(x.sum((1, 3)) * 0.3 + random.normal(size=(count, samples)))
    scores = np.empty((count, groups, seeds, folds))
    for repetition in range(seeds):
        fold_numbers = random.random((count, samples)).argsort(1) % folds
        for fold in range(folds):
            is_test = fold_numbers == fold
            train = x * ~is_test[:, None, :, None]
            moments = np.einsum("rgni,rgnj->rgij", train, x), np.einsum("rgni,rn->rgi", train, label)
            weights = np.linalg.solve(moments[0], moments[1][..., None])[..., 0]
            hits = np.sign(np.einsum("rgni,rgi->rgn", x, weights)) == label[:, None]
            scores[:, :, repetition, fold] = (hits & is_test[:, None]).sum(2) / is_test.sum(1)[:, None]
    return scores.reshape(count, groups, -1)


def test_two_groups_have_students_paired_test() -> None:
    first, second = draw(1, 2, 5, seed=3)[0]
    a, b = compare(np.stack([first, second + 1]))
    expected = stats.ttest_rel(first, second + 1)
    low, high = expected.confidence_interval()
    worse, best = (a, b) if a.mean.value < b.mean.value else (b, a)
    sign = 1 if worse is a else -1
    assert best.verdict == "best" and math.isnan(best.difference.value) and math.isnan(best.p)
    assert worse.difference.value == pytest.approx(sign * (first - second - 1).mean())
    assert worse.p == pytest.approx(expected.pvalue, abs=0.01)
    assert worse.difference.margin == pytest.approx((high - low) / 2, rel=0.03)
    interval = stats.t.interval(0.95, 4, first.mean(), stats.sem(first))
    assert (a.n, a.mean.low, a.mean.high) == (5, pytest.approx(interval[0]), pytest.approx(interval[1]))


@pytest.mark.parametrize(("baseline", "overlap"), [(None, 0.0), (None, 0.25), (0, 0.0)])
def test_false_claims_are_rare_and_intervals_cover(baseline: int | None, overlap: float) -> None:
    sweeps = draw_folds(1000, 4, 5) if overlap else draw(1000, 4, 3)
    rates = simulate(sweeps, baseline, overlap)
    assert 0.03 <= rates.claims <= MOST_FALSE_CLAIMS, "below 3%, differences would be missed"
    assert 0.93 <= rates.differences <= 0.97
    assert 0.93 <= rates.means <= 0.97


def test_a_baseline_that_is_chosen_because_it_is_the_best_makes_no_more_claims() -> None:
    sweeps = draw(300, 6, 3)
    rates = [bool(claims(compare(scores, int(scores.mean(1).argmax())))) for scores in sweeps]
    assert np.mean(rates) <= MOST_FALSE_CLAIMS


def test_an_ordinary_paired_test_claims_too_much_on_folds() -> None:
    first, second = draw_folds(1000, 2, 5, seed=5).swapaxes(0, 1)
    naive = np.mean(stats.ttest_rel(first, second, axis=1).pvalue < 0.05)
    assert naive == pytest.approx(0.14, abs=0.03)


@pytest.mark.parametrize(("repeats", "difference"), [(3, 5.3), (5, 3.0)])
def test_differences_of_this_size_are_detected_in_four_of_five_sweeps(repeats: int, difference: float) -> None:
    sweeps = draw(200, 4, repeats, seed=1)
    sweeps[:, 1] -= difference  # in standard deviations of one run
    power = np.mean([1 in claims(compare(scores)) for scores in sweeps])
    assert 0.7 <= power <= 0.9


def test_a_group_that_diverges_hides_no_differences() -> None:
    scores = draw(1, 5, 5)[0]
    scores[1] -= 8
    scores[4] = -1000 + 50 * scores[4]
    assert claims(compare(scores)) == [1, 4]


def test_the_smallest_mean_is_the_best_where_less_is_better() -> None:
    first, second = draw(1, 2, 5)[0]
    scores = {"a": dict(enumerate(first)), "b": dict(enumerate(second + 9))}
    best, worse = compare_groups(scores, mode="min")
    assert (best.name, best.verdict, worse.name, worse.verdict) == ("a", "best", "b", "worse")
    assert worse.difference.value == pytest.approx((second + 9 - first).mean()) and worse.difference.low > 0
    better, baseline = compare_groups(scores, mode="min", baseline="b")
    assert (better.verdict, baseline.verdict) == ("better", "baseline")
    assert better.difference.value == pytest.approx(-worse.difference.value) and better.p == worse.p


def test_overlap_widens_the_interval_of_a_mean() -> None:
    scores = draw(1, 1, 5)[0]
    (independent,), (folds,) = compare(scores), compare(scores, overlap=1 / 4)
    assert folds.mean.margin / independent.mean.margin == pytest.approx(math.sqrt((1 / 5 + 1 / 4) / (1 / 5)))


def test_holm_adjusts_p_values_step_by_step() -> None:
    assert adjust_holm(np.array([0.03, 0.01, 0.9, 0.02])) == pytest.approx([0.06, 0.04, 0.9, 0.06])


def test_only_common_repeats_are_paired() -> None:
    scores = {
        "a": {0: 0.1, 1: 0.5, 2: 0.9, 3: 0.7},
        "b": {1: 0.4, 2: 0.8, 3: 0.61, 4: 0.0, 5: math.nan},
        "c": {0: 0.2, 7: 0.3},
    }
    a, b, c = compare_groups(scores)
    assert (a.n, b.n, c.n, b.common, c.common) == (4, 4, 2, 3, 1)
    assert b.difference.value == pytest.approx(-0.29 / 3) and b.verdict == "worse"
    assert c.verdict == "not comparable" and math.isnan(c.difference.value) and math.isnan(c.p)


NAN = math.nan


@pytest.mark.parametrize(
    ("scores", "verdicts"),
    [
        ([[0.9], [0.5]], ["best", "not comparable"]),  # one repeat each
        ([[0.9, NAN, NAN], [0.5, 0.6, 0.7]], ["not comparable", "best"]),
        ([[0.8, 0.8, 0.8], [0.9, 0.9, 0.9]], ["not comparable", "best"]),  # no variation
        ([[0.1 + 0.2, 0.3], [0.2, 0.1 + 0.1]], ["best", "not comparable"]),  # rounding errors alone
        ([[0.8, 0.9, 0.7], [0.8, 0.9, 0.7]], ["best", "not distinguishable from the best"]),  # equal scores
        ([[NAN, NAN], [NAN, math.inf]], ["not comparable", "not comparable"]),
        ([[NAN, NAN], [0.5, 0.6]], ["not comparable", "best"]),
    ],
)
def test_too_little_to_compare_is_no_claim(scores: list[list[float]], verdicts: list[str]) -> None:
    summaries = compare(np.array(scores))
    constant = [number for number, row in enumerate(scores) if len({round(x, 9) for x in row if math.isfinite(x)}) < 2]
    assert [group.verdict for group in summaries] == verdicts
    assert [group.n for group in summaries] == [int(np.isfinite(row).sum()) for row in scores]
    for group in summaries:
        assert math.isnan(group.mean.value) == (group.n == 0)
        assert math.isnan(group.mean.margin) == (group.name in constant)


def test_no_groups_are_no_summaries() -> None:
    assert compare_groups({}) == []


def test_a_baseline_with_one_repeat_compares_nothing() -> None:
    summaries = compare(np.array([[0.5, NAN], [0.6, 0.7], [0.3, 0.4]]), baseline=0)
    assert [group.verdict for group in summaries] == ["baseline", "not comparable", "not comparable"]


def test_the_best_by_its_mean_can_be_behind_on_common_repeats() -> None:
    easy = [0.99, 0.99, 0.98, 0.97]
    scores = np.array([[*easy, 0.2, 0.21], [0.9, 0.89, 0.88, 0.87, NAN, NAN]])  # the second failed where it is hard
    first, second = compare(scores)
    assert second.verdict == "best" and first.difference.value > 0.05
    assert first.verdict == "not distinguishable from the best"


def unequal_variances(sweeps: Scores) -> Scores:
    """Standard deviations from 1 to 3."""
    return sweeps * np.linspace(1, 3, sweeps.shape[1])[:, None]


def accuracies(count: int, groups: int, repeats: int, images: int) -> Scores:
    return np.random.default_rng(2).binomial(images, 0.9, (count, groups, repeats)) / images


def with_failed_runs(sweeps: Scores) -> Scores:
    """The same runs fail in each sweep: one of each second group."""
    sweeps[:, ::2, -1] = np.nan
    return sweeps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw_sweeps", "overlap"),
    [
        pytest.param(lambda: draw(1000, 2, 3), 0.0, id="two groups"),
        pytest.param(lambda: draw(1000, 8, 3), 0.0, id="many groups"),
        pytest.param(lambda: unequal_variances(draw(1000, 4, 3)), 0.0, id="unequal variances"),
        pytest.param(lambda: accuracies(1000, 4, 3, images=50), 0.0, id="accuracies of fifty images"),
        pytest.param(lambda: with_failed_runs(draw(1000, 4, 4)), 0.0, id="failed runs"),
        pytest.param(lambda: cross_validate(1000, 4, folds=5), 1 / 4, id="folds of the same images"),
        pytest.param(lambda: cross_validate(1000, 4, folds=5, seeds=3), 1 / 4, id="folds of three seeds"),
    ],
)
def test_false_claims_are_rare_in_many_situations(draw_sweeps: Callable[[], Scores], overlap: float) -> None:
    sweeps = draw_sweeps()
    for baseline in (None, 1):
        assert simulate(sweeps, baseline, overlap).claims <= MOST_FALSE_CLAIMS


@pytest.mark.slow
def test_averages_over_seeds_within_a_fold_would_claim_too_much() -> None:
    sweeps = cross_validate(500, 2, folds=5, seeds=10)
    first, second = sweeps.reshape(500, 2, 10, 5).mean(2).swapaxes(0, 1)
    statistics = stats.ttest_rel(first, second, axis=1).statistic * math.sqrt((1 / 5) / (1 / 5 + 1 / 4))
    assert np.mean(np.abs(statistics) > stats.t.ppf(0.975, 4)) > 0.2
    assert simulate(sweeps, overlap=1 / 4).claims <= 0.07
