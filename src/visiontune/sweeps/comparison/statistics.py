"""Which groups of runs differ, if a group is the same experiment with several seeds or folds.

**Pairs.** Two groups are compared on the repeats (seeds, folds) that both have: what makes a repeat easy or hard for
all groups cancels out. Fewer than two common repeats allow no comparison, and neither do scores that do not vary.

**Overlap.** Cross-validation trains all folds on nearly the same images, so their scores are correlated, and an
ordinary t test claims too much. Nadeau and Bengio (Inference for the generalization error, 2003) replace the variance
s^2 / n of a mean by s^2 * (1 / n + images evaluated / images trained on). The same holds for seeds that split the
images anew. Seeds times folds count as n = seeds * folds repeats (Bouckaert and Frank, 2004), since each seed draws
other folds: fold 0 of one seed has nothing in common with fold 0 of another. Averaging over seeds within a fold first,
as is right for fixed folds, would make 30% false claims with ten seeds instead of 5%.

**Variance.** With three seeds, the variance of a difference is sometimes very small by chance, and then only huge
differences could be claimed. A variance is therefore at least a quarter of the mean of the lowest three quarters of all
variances. The highest quarter does not count, so groups that diverge hide nothing.

**Several comparisons.** Against a baseline, Holm's step-down method adjusts the p values. The best group is chosen
after its scores are known, so a difference from it counts only if it is larger than the largest one that the best of as
many equal groups would have. Random draws of groups that do not differ, with the same repeats, say how large that is;
their seed is fixed. A baseline that is the best group is treated like the best.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from visiontune.sweeps.comparison.differences import LEVEL, ROUNDING, Floats, compare_with

NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class Estimate:
    """A number and half its 95% interval; NaN for what cannot be computed."""

    value: float = np.nan
    margin: float = np.nan

    @property
    def low(self) -> float:
        return self.value - self.margin

    @property
    def high(self) -> float:
        return self.value + self.margin


@dataclass(frozen=True)
class GroupSummary:
    """The repeats of one experiment, compared with the reference: the best group, or the baseline.

    Attributes:
        name: as in the scores.
        n: number of repeats with a score.
        mean: of the scores.
        common: number of repeats that the reference has too.
        difference: mean of (score - score of the reference) over the common repeats; NaN for the reference itself. In
            95% of sweeps, all these intervals of a table hold together.
        p: of the difference, adjusted for the number of comparisons; up to 0.05 is a claim.
        verdict: "best", "worse", "not distinguishable from the best" or "not comparable"; with a baseline "baseline",
            "better", "worse", "not distinguishable from the baseline" or "not comparable".
    """

    name: Hashable
    n: int
    mean: Estimate
    common: int
    difference: Estimate
    p: float
    verdict: str


def compare_groups(
    scores: Mapping[Hashable, Mapping[Hashable, float]],
    mode: Literal["max", "min"] = "max",
    overlap: float = 0.0,
    baseline: Hashable | None = None,
) -> list[GroupSummary]:
    """Summarize groups of repeats, the best mean first, and compare each with the best or with a baseline.

    Args:
        scores: group -> repeat -> score. Scores that are not finite count as missing. The best group is the one with
            the best mean among those with two repeats or more.
        mode: whether the largest or the smallest scores are best.
        overlap: number of evaluated images divided by the number of training images if each repeat draws them anew,
            such as 1 / (k - 1) for k folds; 0 if all repeats have the same splits.
        baseline: the group to compare with; by default the best.
    """
    sign = 1 if mode == "max" else -1
    names, repeats = list(scores), list(dict.fromkeys(repeat for group in scores.values() for repeat in group))
    values = np.full((len(names), len(repeats)), np.nan)
    for row, name in enumerate(names):
        values[row] = [sign * scores[name].get(repeat, np.nan) for repeat in repeats]
    present = np.isfinite(values)
    values = np.where(present, values, 0.0)

    means = [estimate_mean(row[flags], overlap) for row, flags in zip(values, present, strict=True)]
    order = sorted(range(len(names)), key=lambda row: np.nan_to_num(-means[row].value, nan=np.inf))
    best = next((row for row in order if present[row].sum() > 1), order[0] if order else 0)
    reference = best if baseline is None else names.index(baseline)
    kind = "best" if baseline is None else "baseline"
    differences, margins, p_values = compare_with(values, present, reference, overlap, is_best=reference == best)
    return [
        GroupSummary(
            names[row],
            int(present[row].sum()),
            Estimate(sign * means[row].value, means[row].margin),
            int((present[row] & present[reference]).sum()),
            Estimate(float(sign * differences[row]), float(margins[row])),
            float(p_values[row]),
            kind if row == reference and present[row].any() else _verdict(differences[row], p_values[row], kind),
        )
        for row in order
    ]


def _verdict(difference: float, p: float, kind: str) -> str:
    if np.isnan(p):
        return NOT_COMPARABLE
    if p > LEVEL or (difference > 0 and kind == "best"):  # on the common repeats, the best can be behind
        return f"not distinguishable from the {kind}"
    return "better" if difference > 0 else "worse"


def estimate_mean(values: Floats, overlap: float) -> Estimate:
    """The mean of independent repeats, or of overlapping ones, with Student's interval."""
    n = len(values)
    if n < 2:
        return Estimate(float(values[0]) if n else np.nan)
    deviation = values.std(ddof=1)
    if deviation <= ROUNDING * np.abs(values).max():
        return Estimate(float(values.mean()))
    margin = stdtrit(n - 1, 1 - LEVEL / 2) * deviation * np.sqrt(1 / n + overlap)
    return Estimate(float(values.mean()), float(margin))
