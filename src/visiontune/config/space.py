"""The space of a search: what its overrides fix, what they vary, and what they repeat."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from visiontune.errors import UserError

REPEATS = ("seed", "data.fold")  # a search runs each suggestion with all of their values
EXAMPLE = "'optimizer.lr=tag(log,interval(1e-4,1e-2))'"
WHOLE_ENDS = re.compile(r"interval\(\s*[+-]?\d+\s*,\s*[+-]?\d+\s*\)")


@dataclass(frozen=True)
class Space:
    """What a search varies, and what all its jobs have.

    Attributes:
        distributions: of the keys, written as in an override. Choices are texts in Hydra's grammar.
        absent: key -> the options of its group that do not have it.
        defaults: the values of the keys in the config, if they lie in the space.
        fixed: the overrides with one value.
        repeats: overrides of seeds and folds; each suggestion runs with each of them.
        cfg: the config of the fixed overrides.
    """

    distributions: dict[str, BaseDistribution]
    absent: dict[str, list[str]]
    defaults: dict[str, Any]
    fixed: list[str]
    repeats: list[list[str]]
    cfg: DictConfig

    def probes(self) -> list[list[str]]:
        """The overrides of jobs that show whether the space is valid: each choice once, and both ends of numbers.

        The other keys have their default or the middle of their interval.
        """
        base = {key: self.defaults.get(key, _middle(item)) for key, item in self.distributions.items()}
        points = [base]
        for key, item in self.distributions.items():
            points += [base | {key: value} for value in _ends(item)]
        jobs = [[*self.fixed, *self.repeats[0], *write(point, self.absent)] for point in points]
        jobs += [[*self.fixed, *repeat, *write(base, self.absent)] for repeat in self.repeats]
        return [list(job) for job in dict.fromkeys(map(tuple, jobs))]

    def find(self, key: str, value: object) -> Any:
        """A value of a config as a value of the space; None if it does not lie in it."""
        return _find(self.distributions[key], value)


def write(values: dict[str, Any], absent: dict[str, list[str]]) -> list[str]:
    """The overrides of values, without keys that the chosen option of a group does not have."""
    texts = {key: value if isinstance(value, str) else repr(value) for key, value in values.items()}
    return [
        f"{key}={text}"
        for key, text in texts.items()
        if key not in absent or texts[key.partition(".")[0]] not in absent[key]
    ]


def build_space(config_name: str, overrides: Iterable[Override]) -> Space:
    """Read the space of a search from its overrides.

    Raises:
        UserError: an interval or a choice is empty, or no key has several values.
        HydraException, OmegaConfBaseException: a fixed override is wrong.
    """
    latest = {override.get_key_element(): override for override in overrides}
    searched, repeated, fixed = {}, [], []
    for key, override in latest.items():
        if not override.is_sweep_override():
            fixed.append(override)
        elif override.key_or_group not in REPEATS:
            searched[key] = override
        elif override.is_discrete_sweep():
            repeated.append(override)
        else:
            raise UserError(f"{override.input_line}: each suggestion runs with all values; write {key}=0,1,2")
    if not searched:
        raise UserError(f"a search needs keys with several values, such as {EXAMPLE} or strategy=full,lp_ft")
    texts = BasicSweeper.split_arguments(fixed, None)[0][0]
    cfg = compose(config_name, overrides=texts, return_hydra_config=True)
    distributions, defaults = {}, {}
    for key, override in searched.items():
        value = _read_default(cfg, key)
        distributions[key] = build_distribution(override, value)
        if (default := _find(distributions[key], value)) is not None:
            defaults[key] = default
    absent = _find_absent(config_name, texts, distributions)
    with open_dict(cfg):
        del cfg["hydra"]
    return Space(distributions, absent, defaults, texts, BasicSweeper.split_arguments(repeated, None)[0], cfg)


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


def _read_default(cfg: DictConfig, key: str) -> Any:
    """The value of a key, or the option of a group, in a config with `hydra`; None if it has none."""
    name = key.lstrip("+")
    choices = cfg.hydra.runtime.choices
    value = choices[name] if name in choices else OmegaConf.select(cfg, name, throw_on_resolution_failure=False)
    if isinstance(value, DictConfig):  # several options of a group, each under its name
        return list(value)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _find(distribution: BaseDistribution, value: object) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        parser = OverridesParser.create()
        values = {text: parser.parse_override(f"key={text}").value() for text in map(str, distribution.choices)}
        return next((text for text, item in values.items() if item == value), None)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if type(value) not in (int, float) or not distribution._contains(float(value)):  # type: ignore[arg-type]
        return None
    return distribution.to_external_repr(float(value))  # type: ignore[arg-type]


def _find_absent(
    config_name: str, fixed: list[str], distributions: dict[str, BaseDistribution]
) -> dict[str, list[str]]:
    """Key -> the options of its group that do not have it, for keys of groups that the search varies."""
    keys = [key for key in distributions if "." in key and key.partition(".")[0] in distributions]
    absent: dict[str, list[str]] = {}
    for group in dict.fromkeys(key.partition(".")[0] for key in keys):
        distribution = distributions[group]
        options = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
        for option in map(str, options):
            cfg = compose(config_name, overrides=[*fixed, f"{group}={option}"])
            for key in keys:
                parent, _, name = key.rpartition(".")
                node = OmegaConf.select(cfg, parent)
                if parent.partition(".")[0] == group and not (isinstance(node, DictConfig) and name in node):
                    absent.setdefault(key, []).append(option)
        for key in keys:
            if len(absent.get(key, ())) == len(options):
                raise UserError(f"{key}: no option of {group} in this search has this key")
    return absent


def _ends(distribution: BaseDistribution) -> tuple[Any, ...]:
    """All choices, or the lowest and the highest number."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return distribution.low, distribution.high


def _middle(distribution: BaseDistribution) -> Any:
    """A value inside a distribution: the first choice, or the middle."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = distribution.low, distribution.high
    value = (low * high) ** 0.5 if distribution.log else (low + high) / 2
    if distribution.step is not None and not distribution.log:
        value = low + round((value - low) / distribution.step) * distribution.step
    return round(value) if isinstance(distribution, IntDistribution) else float(f"{value:.12g}")
