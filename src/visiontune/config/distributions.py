"""The distributions of a search's keys, from overrides in Hydra's grammar."""

import re
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from visiontune.errors import UserError

EXAMPLE = "'optimizer.lr=tag(log,interval(1e-4,1e-2))'"
WHOLE_ENDS = re.compile(r"interval\(\s*[+-]?\d+\s*,\s*[+-]?\d+\s*\)")


def build_distribution(override: Override, default: object = None) -> BaseDistribution:
    """The distribution of an override with several values.

    Args:
        default: the value of the config. An interval of whole numbers has only whole numbers, unless this is a float.

    Raises:
        UserError: there are no values, or a logarithm of them is impossible.
    """
    typed, value = override.input_line or override.get_key_element(), override.value()
    tags = value.tags if isinstance(value, Sweep) else set()
    log = tags == {"log"}
    if tags and (not log or not isinstance(value, IntervalSweep)):
        raise UserError(f"{typed}: tag takes log and an interval, as in {EXAMPLE}")
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        if low is None or high is None or not low <= high or (log and low <= 0):
            raise UserError(f"{typed}: expected {'0 < ' * log}low <= high, as in {EXAMPLE}")
        is_whole = isinstance(low, int) and isinstance(high, int)
        if is_whole or (WHOLE_ENDS.search(typed) and not isinstance(default, float)):
            return IntDistribution(int(low), int(high), log=log)
        return FloatDistribution(low, high, log=log)
    if isinstance(value, RangeSweep):
        numbers = [item if isinstance(item, int) else float(f"{item:.12g}") for item in value.range()]
        if numbers and isinstance(numbers[0], int):
            return IntDistribution(int(min(numbers)), int(max(numbers)), step=abs(int(value.step)))
        if numbers:
            return FloatDistribution(min(numbers), max(numbers), step=abs(value.step))
    if isinstance(value, ChoiceSweep):
        value.shuffle = False
    texts = () if isinstance(value, RangeSweep) else tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not texts:
        raise UserError(f"{typed}: expected values, and there are none")
    return CategoricalDistribution(texts)


def describe_distribution(distribution: BaseDistribution) -> str:
    """What a key may be, for a reader."""
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    step = f" in steps of {distribution.step}" if distribution.step not in (None, 1) else ""
    kind = "whole numbers " if isinstance(distribution, IntDistribution) else ""
    return f"{kind}{distribution.low} to {distribution.high}{step}{' on a log scale' * distribution.log}"


def find(distribution: BaseDistribution, value: object) -> Any:
    """A value of a config as a value of a distribution; None if it does not lie in it."""
    if isinstance(distribution, CategoricalDistribution):
        parser = OverridesParser.create()
        values = {text: parser.parse_override(f"key={text}").value() for text in map(str, distribution.choices)}
        return next((text for text, item in values.items() if item == value), None)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if type(value) not in (int, float) or not distribution._contains(float(value)):  # type: ignore[arg-type]
        return None
    return distribution.to_external_repr(float(value))  # type: ignore[arg-type]


def ends(distribution: BaseDistribution) -> tuple[Any, ...]:
    """All choices, or the lowest and the highest number."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return distribution.low, distribution.high


def middle(distribution: BaseDistribution) -> Any:
    """A value inside a distribution: the first choice, or the middle."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = distribution.low, distribution.high
    value = (low * high) ** 0.5 if distribution.log else (low + high) / 2
    if distribution.step is not None and not distribution.log:
        value = low + round((value - low) / distribution.step) * distribution.step
    return round(value) if isinstance(distribution, IntDistribution) else float(f"{value:.12g}")
