"""The space of a search: what its overrides fix, what they vary, and what they repeat."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.distributions import BaseDistribution, CategoricalDistribution

from visiontune.config.distributions import EXAMPLE, build_distribution, ends, find, middle
from visiontune.config.zips import Zips, split_zips
from visiontune.errors import UserError

REPEATS = ("seed", "data.fold")  # a search runs each suggestion with all of their values


@dataclass(frozen=True)
class Space:
    """What a search varies, and what all its jobs have.

    Attributes:
        distributions: of the keys, written as in an override. Choices are texts in Hydra's grammar. Keys that vary
            together are one choice.
        zips: the keys that vary together, see `split_zips`.
        absent: key -> the options of its group that do not have it.
        defaults: the values of the keys in the config, if they lie in the space.
        fixed: the overrides with one value.
        repeats: overrides of seeds and folds; each suggestion runs with each of them.
        cfg: the config of the fixed overrides.
    """

    distributions: dict[str, BaseDistribution]
    zips: Zips
    absent: dict[str, list[str]]
    defaults: dict[str, Any]
    fixed: list[str]
    repeats: list[list[str]]
    cfg: DictConfig

    def probes(self) -> list[list[str]]:
        """The overrides of jobs that show whether the space is valid: each choice once, and both ends of numbers.

        The other keys have their default or the middle of their interval.
        """
        base = {key: self.defaults.get(key, middle(item)) for key, item in self.distributions.items()}
        points = [base]
        for key, item in self.distributions.items():
            points += [base | {key: value} for value in ends(item)]
        jobs = [[*self.fixed, *self.repeats[0], *write(point, self.absent, self.zips)] for point in points]
        jobs += [[*self.fixed, *repeat, *write(base, self.absent, self.zips)] for repeat in self.repeats]
        return [list(job) for job in dict.fromkeys(map(tuple, jobs))]

    @property
    def keys(self) -> list[str]:
        """All keys that vary."""
        return [key for name in self.distributions for key in (name.split(",") if name in self.zips else [name])]

    def find(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values of a config as values of the space, without those that do not lie in it."""
        point = {}
        for name, distribution in self.distributions.items():
            if name in self.zips:
                choices = self.zips[name]
                point[name] = next((choice for choice in choices if _matches(choices[choice], values)), None)
            elif name in values:
                point[name] = find(distribution, values[name])
        return {name: value for name, value in point.items() if value is not None}


def write(values: dict[str, Any], absent: dict[str, list[str]], zips: Zips) -> list[str]:
    """The overrides of values, without keys that the chosen option of a group does not have."""
    texts = {key: value if isinstance(value, str) else repr(value) for key, value in values.items()}
    overrides = []
    for key, text in texts.items():
        if key in zips:
            overrides += zips[key][text]
        elif key not in absent or texts[key.partition(".")[0]] not in absent[key]:
            overrides.append(f"{key}={text}")
    return overrides


def build_space(config_name: str, overrides: Iterable[Override], lists: Any) -> Space:
    """Read the space of a search from its overrides.

    Args:
        lists: the value of `sweep.zip`.

    Raises:
        UserError: an interval or a choice is empty, no key has several values, or keys cannot vary together.
        HydraException, OmegaConfBaseException: a fixed override is wrong.
    """
    latest = {override.get_key_element(): override for override in overrides}
    others, zips = split_zips(latest.values(), lists)
    searched, repeated, fixed = {}, [], []
    for key, override in ((item.get_key_element(), item) for item in others):
        if not override.is_sweep_override():
            fixed.append(override)
        elif override.key_or_group not in REPEATS:
            searched[key] = override
        elif override.is_discrete_sweep():
            repeated.append(override)
        else:
            raise UserError(f"{override.input_line}: each suggestion runs with all values; write {key}=0,1,2")
    if any(key in REPEATS for name in zips for key in name.split(",")):
        raise UserError("sweep.zip: each suggestion runs with all values of seed and data.fold; leave them out")
    if not searched and not zips:
        raise UserError(f"a search needs keys with several values, such as {EXAMPLE} or strategy=full,lp_ft")
    texts = BasicSweeper.split_arguments(fixed, None)[0][0]
    cfg = compose(config_name, overrides=texts, return_hydra_config=True)
    distributions: dict[str, BaseDistribution] = {}
    defaults = {key: _read_default(cfg, key) for key in [*searched, *(key for name in zips for key in name.split(","))]}
    for key, override in searched.items():
        distributions[key] = build_distribution(override, defaults[key])
    absent = _find_absent(config_name, texts, distributions)
    distributions |= {name: CategoricalDistribution(tuple(choices)) for name, choices in zips.items()}
    with open_dict(cfg):
        del cfg["hydra"]
    repeats = BasicSweeper.split_arguments(repeated, None)[0]
    space = Space(distributions, zips, absent, {}, texts, repeats, cfg)
    return replace(space, defaults=space.find(defaults))


def _read_default(cfg: DictConfig, key: str) -> Any:
    """The value of a key, or the option of a group, in a config with `hydra`; None if it has none."""
    name = key.lstrip("+")
    choices = cfg.hydra.runtime.choices
    value = choices[name] if name in choices else OmegaConf.select(cfg, name, throw_on_resolution_failure=False)
    if isinstance(value, DictConfig):  # several options of a group, each under its name
        return list(value)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _matches(overrides: list[str], values: dict[str, Any]) -> bool:
    """Whether each override has the value of its key."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return all(item.get_key_element() in values and item.value() == values[item.get_key_element()] for item in parsed)


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
