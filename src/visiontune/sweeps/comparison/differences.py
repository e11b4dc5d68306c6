"""Differences of groups from a reference, with p values for all of them together.

A group is an array of scores, one for each repeat (seed, fold). `statistics` says what is computed and why.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05  # of false claims, over all differences
FLOOR = 0.25  # a variance is at least this share of the mean of the lowest three quarters
DRAWS, DRAWN_VALUES = 19_999, 4_000_000
ROUNDING = 1e-9  # relative to the scores; a smaller standard deviation is a rounding error

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Differences(NamedTuple):
    """Each (G,), NaN where there is none.

    Attributes:
        difference: of a group from the reference; the mean over the repeats that both have.
        margin: half of its interval; the intervals of all groups hold together with a probability of 95%.
        p: adjusted for the number of differences.
    """

    difference: Floats
    margin: Floats
    p: Floats


def compare_with(values: Floats, present: Flags, reference: int, overlap: float, is_best: bool) -> Differences:
    """Compare each group with a reference.

    Args:
        values: (G, N), larger is better.
        present: (G, N), which repeats each group has.
        reference: the number of a group.
        overlap: see `compare_groups`.
        is_best: the reference is the group with the best mean; otherwise its choice does not depend on the scores.
    """
    result = Differences(*np.full((3, len(values)), np.nan))
    rows = np.flatnonzero(present.sum(1) > 1)  # the others take no part
    if reference not in rows or len(rows) < 2:
        return result
    values, present = values[rows], present[rows]
    index = np.flatnonzero(rows == reference)
    (difference,), (error,) = _paired_differences(values[None], present, index, overlap)
    result.difference[rows] = difference
    rounding = ROUNDING * np.abs(values).max()
    error[error <= rounding] = np.nan
    result.p[rows[np.isnan(error) & (np.abs(difference) <= rounding)]] = 1  # the same scores
    tested = np.flatnonzero(np.isfinite(error))
    null = _draw_null(tuple(map(tuple, present.tolist())), None if is_best else int(index[0]), overlap)
    common = (present & present[index]).sum(1)
    comparisons = 1 if is_best else len(tested)  # the largest statistic of a draw stands for all of them
    p = np.empty(len(tested))
    for number, row in enumerate(tested):
        sample = null[common[row]]
        p[number] = (1 + len(sample) - np.searchsorted(sample, abs(difference[row]) / error[row])) / (len(sample) + 1)
        if rank := int(LEVEL / comparisons * (len(sample) + 1)):
            result.margin[rows[row]] = sample[-rank] * error[row]
    result.p[rows[tested]] = p if is_best else adjust_holm(p)
    return result


def adjust_holm(p: Floats) -> Floats:
    """Adjust p values, (M,), by Holm's step-down method."""
    order = np.argsort(p)
    adjusted = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted[np.argsort(order)]


@lru_cache(maxsize=4)
def _draw_null(repeats: tuple[tuple[bool, ...], ...], reference: int | None, overlap: float) -> dict[int, Floats]:
    """The distribution of |difference| / standard error if the groups do not differ, as sorted values.

    Args:
        repeats: (G, N), which repeats each group has.
        reference: the baseline; None for the best group of each draw. Then the values are the largest of each draw.

    Returns:
        number of common repeats -> values.
    """
    present = np.array(repeats)
    count = min(DRAWS, max(999, DRAWN_VALUES // present.size)) // 20 * 20 + 19
    random = np.random.default_rng(0)
    values = random.standard_normal((count, *present.shape), dtype=np.float32)
    if overlap:  # what the overlapping training splits of a group have in common
        values += np.sqrt(overlap) * random.standard_normal((count, len(present), 1), dtype=np.float32)
    if reference is None:
        references = (np.where(present, values, 0).sum(2) / present.sum(1)).argmax(1)
    else:
        references = np.full(count, reference)
    difference, error = _paired_differences(values, present, references, overlap)
    statistics = np.nan_to_num(np.abs(difference) / error)
    sizes = range(2, present.shape[1] + 1)
    if reference is None:
        return dict.fromkeys(sizes, np.sort(statistics.max(1)))
    common = (present & present[reference]).sum(1)
    common[reference] = 0
    return {size: np.sort(statistics[:, common == size], axis=None) for size in sizes}


def _paired_differences(values: NDArray, present: Flags, references: NDArray, overlap: float) -> tuple[Floats, Floats]:
    """The mean difference of each group from a reference and its standard error, both (draws, G).

    Both are NaN for the reference itself and for groups with fewer than two repeats in common with it.

    Args:
        values: (draws, G, N).
        present: (G, N).
        references: (draws,), a group for each draw.
    """
    common = present & present[references][:, None]
    n = common.sum(2)
    is_pair = (n > 1) & (np.arange(len(present)) != references[:, None])
    shifts = np.where(common, values - values[np.arange(len(values)), references][:, None], 0)
    n = np.where(is_pair, n, np.nan)
    difference = shifts.sum(2) / n
    variance = (np.where(common, shifts - difference[..., None], 0) ** 2).sum(2) / (n - 1)
    counts = np.ceil(is_pair.sum(1) * 0.75).astype(int)
    ordered = np.sort(variance, axis=1)  # NaN comes last
    is_low = np.arange(len(present)) < counts[:, None]
    floor = FLOOR * np.where(is_low, ordered, 0).sum(1) / np.maximum(counts, 1)
    return difference, np.sqrt(np.maximum(variance, floor[:, None]) * (1 / n + overlap))
