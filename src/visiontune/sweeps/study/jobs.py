"""The jobs of a sweep, from the configs that its overrides compose."""

import hashlib
import json
from copy import deepcopy
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import distribution_to_json

from visiontune.config.distributions import describe_distribution
from visiontune.config.jobs import ComposedJob, describe, select_overrides
from visiontune.config.space import REPEATS, Space
from visiontune.errors import UserError
from visiontune.sweeps.study.suggest import Search
from visiontune.sweeps.study.sweep import Job

PLACES = ("run_dir", "sweep_dir", "paths", "sweep", "launcher")  # where a job runs, and how


def build_jobs(composed: list[ComposedJob], keys: list[str]) -> list[Job]:
    """A job for each distinct config.

    Args:
        keys: that the sweep varies; those with numbers become parameters of the study.
    """
    jobs: dict[str, Job] = {}
    for overrides, cfg, _ in composed:
        values = {key: OmegaConf.select(cfg, key) for key in keys}
        params = {key: float(value) for key, value in values.items() if type(value) in (int, float)}
        name = identity(cfg)
        jobs.setdefault(name, Job(overrides, describe(select_overrides(overrides, keys), []), name, params))
    return list(jobs.values())


def identity(cfg: DictConfig) -> str:
    """The hash of a config without its places, which is equal for jobs that are the same training."""
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    text = json.dumps({key: value for key, value in plain.items() if key not in PLACES}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build_search(space: Space, sweep: DictConfig) -> Search:
    """The search of a space.

    Args:
        sweep: the keys of `sweep`.
    """
    cfg = deepcopy(space.cfg)
    keys = [key.lstrip("+").partition("@")[0] for key in space.keys]
    for key in sorted([*keys, *REPEATS], key=lambda key: -key.count(".")):  # a group after the keys inside
        OmegaConf.update(cfg, key, None, merge=False, force_add=True)
    return Search(
        sampler=sweep.sampler,
        seed=_read_repeat(space, space.repeats[0])["seed"],
        config=identity(cfg),
        start=OmegaConf.to_container(sweep.start),  # type: ignore[arg-type]
        fixed=space.fixed,
        absent=space.absent,
        zips=space.zips,
        distributions={key: distribution_to_json(item) for key, item in space.distributions.items()},
    )


def build_suggestions(space: Space, search: Search, count: int) -> list[Job]:
    """A job for each suggestion and repetition; its other values are drawn when it is taken.

    Raises:
        UserError: a starting point does not lie in the space.
    """
    starts = [space.defaults, *(_read_start(space, start) for start in search.start)]
    jobs = []
    for number in range(count):
        for repeat in space.repeats:
            name = " ".join(f"{key}={value}" for key, value in _read_repeat(space, repeat).items())
            params = starts[number] if number < len(starts) else {}
            attributes = {"suggestion": number, "repeat": repeat}
            jobs.append(Job([*space.fixed, *repeat], " ".join(repeat), f"{number} {name}", params, attributes))
    return jobs


def _read_repeat(space: Space, repeat: list[str]) -> dict[str, Any]:
    """The seed and the fold of a repetition."""
    typed = {item.key_or_group: item.value() for item in OverridesParser.create().parse_overrides(repeat)}
    return {key: typed.get(key, OmegaConf.select(space.cfg, key)) for key in REPEATS}


def _read_start(space: Space, start: dict[str, Any]) -> dict[str, Any]:
    point = space.find(start)
    for key, value in start.items():
        if key not in space.keys:
            raise UserError(f"sweep.start: the search does not vary {key}; it varies {', '.join(space.keys)}")
        name = next(name for name in space.distributions if key == name or key in name.split(","))
        if name not in point:
            words = describe_distribution(space.distributions[name])
            together = f" for {name}, which vary together" if name in space.zips else ""
            raise UserError(f"sweep.start: {key}={value} is not in {words}{together}")
    return point
